// ---- explorer: reads the tables that Python made; it neither counts nor draws

const inputs = data.flags.map((_, place) => document.querySelector(`[data-flag="${place}"]`));
const start = document.getElementById("start");
const shown = Object.fromEntries(
  ["params", "macs", "gflops", "nearest", "measured", "name", "refused", "unknown", "overview", "parts"].map((id) => [
    id,
    document.getElementById(id),
  ]),
);

function lookUp(table, chosen) {
  return table.data[chosen.reduce((place, choice, flag) => place + choice * table.strides[flag], 0)];
}

function readInputs() {
  return inputs.map((input) => (input.type === "checkbox" ? Number(input.checked) : Number(input.value)));
}

function writeInputs(chosen) {
  inputs.forEach((input, flag) => {
    if (input.type === "checkbox") input.checked = Boolean(chosen[flag]);
    else input.value = String(chosen[flag]);
  });
}

function valueOf(flag, choice) {
  return data.flags[flag].values[choice];
}

function differing(chosen, other) {
  return chosen.map((_, flag) => flag).filter((flag) => chosen[flag] !== other[flag]);
}

function nearestRow(chosen) {
  let nearest = null;
  for (const row of data.rows) {
    const flags = differing(chosen, row.choice);
    if (!nearest || flags.length < nearest.flags.length) nearest = { row, flags };
  }
  return nearest;
}

function describe(nearest, chosen) {
  if (!nearest.flags.length) return `${nearest.row.label}: exact match`;
  const words = nearest.flags.map((flag) => {
    const there = nearest.row.choice[flag];
    return `${data.flags[flag].name} ${valueOf(flag, chosen[flag])}` + (there < 0 ? "" : `, there ${valueOf(flag, there)}`);
  });
  const many = words.length === 1 ? "1 flag differs" : `${words.length} flags differ`;
  return `${nearest.row.label}; ${many}: ${words.join("; ")}`;
}

function measured(chosen) {
  const found = data.measured.filter((run) => !differing(chosen, run.choice).length);
  return found.length ? found.map((run) => run.result).join("\n") : "no runs of this design";
}

function nameOf(nearest, chosen) {
  const row = nearest.row === data.rows[0] ? "" : `@${nearest.row.name}`;
  const flags = nearest.flags.map((flag) => `,${data.flags[flag].name}=${valueOf(flag, chosen[flag])}`);
  return data.base + row + flags.join("");
}

function wordsOf(part, chosen) {
  const activation = data.flags.findIndex((flag) => flag.name === "activation");
  return part.slice(1).map((word) => (word === 0 ? data.activations[chosen[activation]] : data.words[word]));
}

function figureOf(number, chosen) {
  const part = data.parts[number];
  const [title, ...words] = wordsOf(part, chosen);
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  figure.innerHTML = data.frames[part[0]].replace(/\{(\d+)\}/g, (_, slot) => words[slot]);
  figure.prepend(caption);
  const svg = figure.querySelector("svg");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${words.join(", ")}`);
  return figure;
}

function gflops(macs) {
  const digits = macs >= 1e8 ? { minimumFractionDigits: 2, maximumFractionDigits: 2 } : { maximumSignificantDigits: 2 };
  return (macs / 1e9).toLocaleString("en", digits);
}

function show() {
  const chosen = readInputs();
  const macs = lookUp(data.macs, chosen);
  const refused = macs < 0;
  shown.refused.hidden = !refused;
  shown.refused.textContent = refused ? `Invalid design: ${data.reasons[-1 - macs]}` : "";
  shown.params.textContent = refused ? "–" : lookUp(data.params, chosen).toLocaleString("en");
  shown.macs.textContent = refused ? "–" : macs.toLocaleString("en");
  shown.gflops.textContent = refused ? "–" : gflops(macs);
  const nearest = nearestRow(chosen);
  shown.nearest.textContent = describe(nearest, chosen);
  shown.measured.textContent = measured(chosen);
  shown.name.textContent = nameOf(nearest, chosen);
  shown.overview.innerHTML = data.overviews[lookUp(data.overview, chosen)];
  const drawn = [lookUp(data.stem, chosen), ...data.groups[lookUp(data.body, chosen)]];
  shown.parts.replaceChildren(...drawn.map((number) => figureOf(number, chosen)));
}

const PREFIX = "#flags=";

function keep() {
  const flags = readInputs().map((choice, flag) => `${data.flags[flag].name}=${valueOf(flag, choice)}`);
  history.replaceState(null, "", PREFIX + flags.map(encodeURIComponent).join(","));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // not an encoding that a browser writes, so not a flag
  }
}

function tellUnknown(parts) {
  shown.unknown.hidden = !parts.length;
  shown.unknown.textContent = parts.length ? `Ignored from the URL, unknown on this page: ${parts.join(", ")}` : "";
}

function restore() {
  if (!location.hash.startsWith(PREFIX)) return false;
  const chosen = readInputs();
  const unknown = [];
  for (const part of location.hash.slice(PREFIX.length).split(",")) {
    const [name, value] = decoded(part).split("=");
    const flag = data.flags.findIndex((one) => one.name === name);
    const choice = flag < 0 ? -1 : data.flags[flag].values.indexOf(value);
    if (choice >= 0) chosen[flag] = choice;
    else unknown.push(decoded(part));
  }
  tellUnknown(unknown);
  writeInputs(chosen);
  show();
  return true;
}

function changed() {
  tellUnknown([]);
  show();
  keep();
}

inputs.forEach((input) =>
  input.addEventListener("change", () => {
    start.value = "";
    changed();
  }),
);
start.addEventListener("change", () => {
  if (start.value === "") return;
  writeInputs(data.rows[start.value].choice);
  changed();
});
document.querySelector(".flags").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => {
  if (restore()) document.getElementById("explorer").scrollIntoView();
});
writeInputs(data.start);
show();
if (restore()) document.getElementById("explorer").scrollIntoView();
