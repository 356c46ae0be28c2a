"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

// ---- tables: a click or Enter on a heading sorts by it, up, down, and back to the order of the report

const collator = new Intl.Collator("en", { numeric: true });

function sortKey(row, place, isNumber) {
  const text = row.cells[place].firstChild?.textContent.trim() ?? "";
  if (!isNumber) return text;
  const found = text.replace("−", "-").replaceAll(",", "").match(/[-+]?\d+(\.\d+)?/);
  return found ? Number(found[0]) : null;
}

function compareKeys(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null); // what is missing stays last
  return sign * (typeof one === "number" ? one - other : collator.compare(one, other));
}

function sortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const order = next[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
      const sign = order === "descending" ? -1 : 1;
      const keyed = rows.map((row) => [sortKey(row, place, head.classList.contains("number")), row]);
      if (order !== "none") keyed.sort(([one], [other]) => compareKeys(one, other, sign));
      table.classList.toggle("sorted", order !== "none");
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);

// ---- figures: a mark under the pointer, or reached by Tab and the arrow keys, shows its numbers

const tip = document.getElementById("tip");

function showTip(mark) {
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  const at = mark.getBoundingClientRect();
  const page = document.documentElement.getBoundingClientRect();
  const wide = tip.offsetWidth;
  const left = Math.min(Math.max(at.left + at.width / 2 - wide / 2, 8), document.documentElement.clientWidth - wide - 8);
  const above = at.top - tip.offsetHeight - 8;
  tip.style.left = `${left - page.left}px`;
  tip.style.top = `${(above > 0 ? above : at.bottom + 8) - page.top}px`;
}

function hideTip() {
  tip.hidden = true;
}

for (const figure of document.querySelectorAll(".paper")) {
  const marks = [...figure.querySelectorAll(".mark")];
  if (marks.length) marks[0].tabIndex = 0;
  marks.forEach((mark, place) => {
    mark.addEventListener("pointerenter", () => showTip(mark));
    mark.addEventListener("pointerleave", hideTip);
    mark.addEventListener("focus", () => showTip(mark));
    mark.addEventListener("blur", hideTip);
    if (mark.dataset.row in data.study.rows) mark.addEventListener("click", () => (location.hash = linkTo(mark.dataset.row)));
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && mark.dataset.row in data.study.rows) location.hash = linkTo(mark.dataset.row);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hideTip();
      if (!step) return;
      event.preventDefault();
      const to = marks[(place + step + marks.length) % marks.length];
      mark.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    });
  });
}

// ---- rows: a link such as #row=kernel-7 shows a row's configuration and the learning curves of its runs

const ROW = "#row=";
const row = Object.fromEntries(
  ["title", "facts", "runs", "run", "curves", "explorer", "changed", "settings"].map((part) => [
    part,
    document.getElementById(`row-${part}`),
  ]),
);
const dialog = document.getElementById("row");
let before = ""; // the rest of the address while a row is shown

function linkTo(name) {
  return ROW + encodeURIComponent(name);
}

function make(tag, text, looks = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(looks)) element.setAttribute(name, value);
  return element;
}

function configurationOf(name) {
  const { flags, recipe } = data.study.rows[name];
  const settings = Object.entries(data.study.recipes[recipe] ?? {}).map(([key, value]) => [`recipe.${key}`, value]);
  return new Map([...Object.entries(flags), ...settings]);
}

function tableOf(heads, lines) {
  const table = document.createElement("table");
  const line = (cells, tag) => {
    const made = document.createElement("tr");
    made.append(...cells.map((cell, place) => make(place && tag === "td" ? "td" : "th", cell, place ? {} : { scope: "row" })));
    return made;
  };
  table.append(document.createElement("thead"), document.createElement("tbody"));
  table.tHead.append(line(heads, "th"));
  for (const cell of table.tHead.rows[0].cells) cell.scope = "col";
  table.tBodies[0].append(...lines.map((cells) => line(cells, "td")));
  return table;
}

function showConfiguration(name) {
  const { base, label, flags } = data.study.rows[name];
  const mine = configurationOf(name);
  const other = base in data.study.rows ? configurationOf(base) : new Map();
  const baseline = base in data.study.rows ? data.study.rows[base].label : "";
  const keys = [...new Set([...mine.keys(), ...other.keys()])];
  const changed = keys.filter((key) => mine.get(key) !== other.get(key));
  const lines = changed.map((key) => [key, mine.get(key) ?? "–", other.get(key) ?? "–"]);
  row.changed.replaceChildren(
    baseline && lines.length
      ? tableOf(["changed", label, baseline], lines)
      : make("p", baseline ? `The same as ${baseline}.` : "It is compared with no other row."),
  );
  row.settings.replaceChildren(tableOf(["flag or setting", "value"], [...mine]));
  row.explorer.hidden = !document.getElementById("explorer") || !Object.keys(flags).length;
  const design = Object.entries(flags).map(([flag, value]) => `${flag}=${value}`);
  row.explorer.firstChild.setAttribute("href", `#flags=${design.map(encodeURIComponent).join(",")}`);
}

const SVG = "http://www.w3.org/2000/svg";

function draw(svg, tag, looks, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(looks)) element.setAttribute(name, value);
  element.textContent = text;
  svg.append(element);
}

function ticksOf(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const wide = [1, 2, 5, 10].map((times) => times * step).find((one) => (high - low) / one <= 4);
  const ticks = [];
  for (let place = Math.ceil(low / wide) * wide; place <= high + wide / 1e6; place += wide) ticks.push(place);
  return ticks.map((tick) => Number(tick.toPrecision(6)));
}

function chartOf(runs, chosen, quantity, title) {
  const figure = document.createElement("figure");
  const svg = document.createElementNS(SVG, "svg");
  const [wide, tall, left, bottom] = [340, 190, 44, 34];
  const values = runs.flatMap((run) => run.curve[quantity]);
  const most = Math.max(...runs.flatMap((run) => run.curve.images));
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 1e-9) [low, high] = [low - 1, high + 1];
  const x = (images) => left + ((wide - left - 12) * images) / most;
  const y = (value) => 8 + ((tall - bottom - 8) * (high - value)) / (high - low);
  for (const tick of ticksOf(low, high)) {
    draw(svg, "line", { x1: left, x2: wide - 12, y1: y(tick), y2: y(tick), class: "grid" });
    draw(svg, "text", { x: left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, String(tick));
  }
  for (const tick of [0, most]) {
    draw(svg, "text", { x: x(tick), y: tall - bottom + 14, "text-anchor": tick ? "end" : "start" }, tick.toLocaleString("en"));
  }
  draw(svg, "text", { x: (left + wide - 12) / 2, y: tall - 4, "text-anchor": "middle" }, "images seen");
  for (const run of [...runs.filter((one) => one !== chosen), ...(chosen.curve ? [chosen] : [])]) {
    const points = run.curve.images.map((images, place) => `${x(images).toFixed(1)},${y(run.curve[quantity][place]).toFixed(1)}`);
    const looks = { points: points.join(" "), class: run === chosen ? "curve chosen" : "curve" };
    draw(svg, "polyline", looks);
  }
  svg.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
  svg.setAttribute("role", "img");
  const last = chosen.curve ? `${chosen.curve[quantity].at(-1)} after ${chosen.curve.images.at(-1).toLocaleString("en")} images` : "no log";
  svg.setAttribute("aria-label", `${title} of seed ${chosen.seed}: ${last}`);
  figure.append(make("figcaption", title), svg);
  return figure;
}

function showRun(name, chosen) {
  const { runs } = data.study.rows[name];
  [...row.runs.children].forEach((button, place) => button.setAttribute("aria-pressed", String(runs[place] === chosen)));
  const time = (seconds, what) => (seconds === undefined ? `${what} not recorded` : `${what} ${seconds.toLocaleString("en")} s`);
  row.run.textContent = [
    `Seed ${chosen.seed}: ${chosen.status}${chosen.reason ? ` (${chosen.reason})` : ""}`,
    ...(chosen.top1 === undefined ? [] : [`top-1 ${chosen.top1.toFixed(2)}%`]),
    ...(chosen.loss === undefined ? [] : [`test loss ${chosen.loss.toFixed(3)}`]),
    ...(chosen.top1 === undefined ? [] : [time(chosen.seconds, "training"), time(chosen.processor_seconds, "processor time")]),
    ...(chosen.top1 === undefined ? [] : [chosen.machine ?? "machine not recorded"]),
    ...(chosen.run ? [`folder runs/${chosen.run}`] : []),
  ].join(" · ");
  const logged = runs.filter((run) => run.curve);
  row.curves.replaceChildren(
    ...(logged.length
      ? [
          chartOf(logged, chosen, "loss", "Training loss"),
          chartOf(logged, chosen, "top1", "Top-1 on training images (%)"),
        ]
      : [make("p", "No learning curves: the folder holds no logs.")]),
  );
}

function showRow(name) {
  const { label, recipe, runs } = data.study.rows[name];
  row.title.textContent = label;
  row.facts.textContent = `Row ${name} · recipe ${recipe}`;
  row.runs.replaceChildren(
    ...runs.map((run) => {
      const button = make("button", `seed ${run.seed}`, { type: "button" });
      button.addEventListener("click", () => showRun(name, run));
      return button;
    }),
  );
  showRun(name, runs.find((run) => run.curve) ?? runs[0]);
  showConfiguration(name);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function showLinkedRow(event) {
  const linked = location.hash.startsWith(ROW);
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(ROW.length));
  } catch {} // not an encoding that this page writes
  if (linked && Object.hasOwn(data.study.rows, name)) {
    if (!dialog.open) before = event ? new URL(event.oldURL).hash : "";
    showRow(name);
  } else if (dialog.open) {
    dialog.close();
  }
}

dialog.addEventListener("close", () => {
  if (location.hash.startsWith(ROW)) history.replaceState(null, "", before || "#");
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside it
});
window.addEventListener("hashchange", showLinkedRow);
showLinkedRow();
