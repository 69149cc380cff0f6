// What is asked of the list: filters, measure, order. It is kept in the address, so that a view can be sent on.

export const nothing = () => ({
  words: "",
  facets: new Map(), // number of a facet -> Set of numbers of its values
  outcomes: new Set(),
  rank: { row: null, least: null, most: null },
  gap: { run: 0, least: null, most: null },
  entry: null, // an answer that is looked for
  measure: null,
  sort: "order",
  rows: null, // that are shown
});

const list = (values) => [...values].join(".");
const numbers = (text) => (text ? text.split(".").map(Number) : []);
const bound = (text) => (text === "" || text === undefined || Number.isNaN(Number(text)) ? null : Number(text));

export function write(state) {
  const said = new URLSearchParams();
  if (state.words) said.set("words", state.words);
  for (const [at, values] of state.facets) if (values.size) said.set(`facet${at}`, list(values));
  if (state.outcomes.size) said.set("outcome", list(state.outcomes));
  const range = ({ least, most }) => `${least ?? ""}_${most ?? ""}`;
  if (range(state.rank) !== "_") said.set("rank", `${state.rank.row}_${range(state.rank)}`);
  if (range(state.gap) !== "_" || state.gap.run) said.set("gap", `${state.gap.run}_${range(state.gap)}`);
  if (state.entry !== null) said.set("answer", state.entry);
  if (state.measure !== null) said.set("measure", state.measure);
  if (state.sort !== "order") said.set("sort", state.sort);
  if (state.rows) said.set("rows", list(state.rows));
  return said.toString();
}

const has = (array, at) => at !== "" && Object.hasOwn(array, at) && at !== "length";

// What an address says may be of another page, or anything: what this page has not is left out.
export function read(text, report) {
  const said = new URLSearchParams(text);
  const state = nothing();
  state.words = said.get("words") ?? "";
  for (const [at, { values }] of report.facets.entries()) {
    const chosen = numbers(said.get(`facet${at}`)).filter((value) => value in values);
    if (chosen.length) state.facets.set(at, new Set(chosen));
  }
  if (said.has("outcome")) state.outcomes = new Set(said.get("outcome").split("."));
  const [row, ...ranks] = (said.get("rank") ?? "").split("_");
  const range = ([least, most]) => ({ least: bound(least), most: bound(most) });
  if (has(report.rows, row)) state.rank = { row: Number(row), ...range(ranks) };
  const [run, ...gaps] = (said.get("gap") ?? "").split("_");
  if (has(report.runs, run)) state.gap = { run: Number(run), ...range(gaps) };
  const entry = bound(said.get("answer") ?? "");
  if (entry in report.entries.ids) state.entry = entry;
  if (report.measures.includes(said.get("measure"))) state.measure = said.get("measure");
  state.sort = said.get("sort") ?? "order";
  const rows = numbers(said.get("rows")).filter((at) => at in report.rows);
  if (rows.length) state.rows = new Set(rows);
  return state;
}
