"use strict";

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

for (const figure of document.querySelectorAll(".plot")) {
  const marks = [...figure.querySelectorAll(".mark")];
  if (marks.length) marks[0].tabIndex = 0;
  marks.forEach((mark, place) => {
    mark.addEventListener("pointerenter", () => showTip(mark));
    mark.addEventListener("pointerleave", hideTip);
    mark.addEventListener("focus", () => showTip(mark));
    mark.addEventListener("blur", hideTip);
    mark.addEventListener("keydown", (event) => {
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
