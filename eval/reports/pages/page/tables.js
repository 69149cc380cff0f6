// Figures: headings, lines and tables, as they also stand in the terminal.

import { element } from "./elements.js";
import { pairs } from "./pieces.js";

// A number, an interval, or nothing to say: it stands to the right.
const isFigure = (cell) => /^[-+]?[\d.,–]*( to [-+\d.]+)?(-[\d.]+)?$/.test(cell);

function table({ head, rows, best = [], minor = [] }) {
  const right = head.map((_, at) => rows.every((row) => isFigure(row[at])) && "figure");
  const marked = new Set(best.map(([row, at]) => `${row} ${at}`));
  const cell = (text, row, at) => {
    if (!at) return element("th", { scope: "row" }, text);
    return element("td", { class: right[at] }, marked.has(`${row} ${at}`) ? element("strong", {}, text) : text);
  };
  const line = (cells, row) =>
    element("tr", { class: minor.includes(row) && "minor" }, ...cells.map((text, at) => cell(text, row, at)));
  const titles = head.map((text, at) => element("th", { scope: "col", class: right[at] }, text));
  const made = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...titles)),
    element("tbody", {}, ...rows.map(line)),
  );
  // what is wider than the window is scrolled, by keyboard too
  return element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table of figures" }, made);
}

export function block(one) {
  if (one.heading !== undefined) return element("h2", {}, one.heading);
  if (one.text !== undefined) return element("p", { class: "quiet" }, one.text);
  return table(one);
}

// Pairs of a name and what it says, closed until somebody asks.
export function facts(title, known) {
  return element("details", {}, element("summary", {}, title), pairs(known));
}
