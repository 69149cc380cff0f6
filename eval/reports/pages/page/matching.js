// Which queries fit what is asked, in which order, and how many there are of each value of a facet.

import { RANK } from "./report.js";

const within = (value, { least, most }) =>
  value !== null && (least === null || value >= least) && (most === null || value <= most);

const open = ({ least, most }) => least === null && most === null;

// In points, as the table has them; ranks are counted.
export const scale = (measure) => (measure === RANK ? 1 : 100);

// The rank of a query's target as far as it is known; what a given list does not name comes after all that it does.
const rankOf = (report, row, query) => {
  const rank = report.rows[row].ranks[query];
  return rank === 0 ? Infinity : rank;
};

// The filters that are set: [[name, query => fits]].
function filters(report, state) {
  const made = [];
  const wanted = state.words.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (wanted.length) made.push(["words", (query) => wanted.every((word) => report.text(query).includes(word))]);
  for (const [at, values] of state.facets) {
    if (values.size) made.push([at, (query) => report.facets[at].of[query].some((value) => values.has(value))]);
  }
  if (state.outcomes.size) {
    made.push(["outcome", (query) => state.outcomes.has(report.outcome(state.measure, query))]);
  }
  if (!open(state.rank)) {
    made.push(["rank", (query) => within(rankOf(report, state.rank.row, query), state.rank)]);
  }
  if (!open(state.gap)) {
    const factor = scale(state.measure);
    const gap = (query) => {
      const found = report.gap(state.measure, query, state.gap.run);
      // a sum of floats is near the number that was typed, not always it
      return found === null ? null : Math.round(found * factor * 1e6) / 1e6;
    };
    made.push(["gap", (query) => within(gap(query), state.gap)]);
  }
  if (state.entry !== null) made.push(["entry", (query) => report.places(state.entry, query).length > 0]);
  return made;
}

// The queries that fit, in order; and counts: facet, or "outcome" -> value -> how many would fit with that value.
export function matching(report, state) {
  const set = filters(report, state);
  const found = [];
  const counts = new Map([["outcome", new Map()], ...report.facets.map((_, at) => [at, new Map()])]);
  for (let query = 0; query < report.count; query += 1) {
    const failed = set.filter(([, fits]) => !fits(query)).map(([name]) => name);
    if (!failed.length) found.push(query);
    if (failed.length < 2) count(report, state, query, failed[0], counts);
  }
  return { found: sorted(report, state, found), counts };
}

// A query that one filter alone keeps out would be there with another value of it: it counts for that one.
function count(report, state, query, failed, counts) {
  const add = (name, value) => counts.get(name).set(value, (counts.get(name).get(value) ?? 0) + 1);
  for (const [at, { of }] of report.facets.entries()) {
    if (failed === undefined || failed === at) for (const value of of[query]) add(at, value);
  }
  if (report.compares && (failed === undefined || failed === "outcome")) {
    add("outcome", report.outcome(state.measure, query));
  }
}

// Each order: what it is called, and what it goes by, ascending; what has no value comes last.
export function orders(report) {
  const rank = (query) => report.rows[report.askedRows(query)[0]]?.ranks[query] || null;
  const minus = (value) => (value === null ? null : -value);
  const halves = report.rows.some(({ part }) => part === "half");
  const all = [["order", "the benchmark's order", null]];
  if (report.measures.includes(RANK)) {
    all.push(["rank", "rank, best first", rank], ["-rank", "rank, worst first", (query) => minus(rank(query))]);
  }
  if (report.compares) {
    const difference = (query, state) => report.difference(state.measure, query);
    const [first, second] = report.runs;
    all.push(["-difference", `${second} ahead first`, (query, state) => minus(difference(query, state))]);
    all.push(["difference", `${first} ahead first`, difference]);
  }
  if (halves && report.measures.length) {
    const gap = (query, state) => report.gap(state.measure, query, state.gap.run);
    all.push(["-gap", "gap, largest first", (query, state) => minus(gap(query, state))]);
    all.push(["gap", "gap, smallest first", gap]);
  }
  all.push(["words", "words, A to Z", (query) => report.queries.words[query].join(" ").toLowerCase()]);
  return all;
}

function sorted(report, state, queries) {
  const by = orders(report).find(([name]) => name === state.sort)?.[2];
  if (!by) return queries;
  const keys = new Map(queries.map((query) => [query, by(query, state)]));
  const compare = (one, other) => (one === other ? 0 : one === null ? 1 : other === null ? -1 : one < other ? -1 : 1);
  // equal ones stay in the benchmark's order
  return queries.sort((one, other) => compare(keys.get(one), keys.get(other)) || one - other);
}
