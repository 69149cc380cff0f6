// What the rows of the table are worth on the queries that fit the filters.

import { byId, element } from "./elements.js";
import { OUTCOMES } from "./filters.js";
import { number } from "./pieces.js";
import { RANK } from "./report.js";

// The middle one of some ranks, of an even number the mean of the two.
function median(values) {
  const inOrder = values.toSorted((one, other) => one - other);
  const middle = inOrder.length >> 1;
  return inOrder.length % 2 ? inOrder[middle] : (inOrder[middle - 1] + inOrder[middle]) / 2;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function figure(report, row, measure, queries) {
  const values = queries.map((query) => report.value(row, measure, query)).filter((value) => value !== null);
  if (!values.length) return null;
  if (measure === RANK) return { count: values.length, text: `median ${number(median(values))}`, share: null };
  const share = mean(values);
  return { count: values.length, text: (100 * share).toFixed(2), share };
}

function bar(name, { count, text, share }, of) {
  const some = count === of ? null : element("small", {}, `of ${number(count)}`);
  const level = element("span", { class: "level", "aria-hidden": "true" });
  level.style.inlineSize = `${100 * (share ?? 0)}%`;
  const rule = share === null ? null : element("span", { class: "rule", "aria-hidden": "true" }, level);
  return element("div", { class: "bar-line" }, element("dt", {}, name), element("dd", {}, rule, text, some));
}

function outcomes(report, measure, queries) {
  const counts = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, 0]));
  for (const query of queries) {
    const outcome = report.outcome(measure, query);
    if (outcome !== null) counts[outcome] += 1;
  }
  const [first, second] = report.runs;
  const wins = `${second} wins ${number(counts.better)}, ${first} wins ${number(counts.worse)}`;
  return element("p", {}, `${wins}, ${number(counts.equal)} alike`);
}

export function drawSlice(report, state, queries) {
  const { measure } = state;
  byId("slice").hidden = measure === null;
  if (measure === null) return;
  const lines = [];
  for (const [row, { name }] of report.rows.entries()) {
    const found = state.rows.has(row) && figure(report, row, measure, queries);
    if (found) lines.push(bar(name, found, queries.length));
  }
  const none = lines.length ? null : element("p", { class: "quiet" }, "None of them has it.");
  const compared = report.compares ? outcomes(report, measure, queries) : null;
  byId("worths").replaceChildren(...[element("dl", {}, ...lines), none, compared].filter(Boolean));
}
