// The data of the page, and what can be asked of them. A query is its number, and so are rows, entries and thumbnails.
//
// data: {kind, title, about, blocks, protocol, notes, runs, measure, lower, rows, facets, entries, queries, thumbnails}
//   lower:    measures of which less is better
//   rows:     {name, run, part: "asked" | "half" | "other", shown, answers, ranks, values}: what each query was
//             answered in one row of the table; null where the query has no such row. A rank counts from 1; it is 0
//             where a given list lacks the target, and null where nobody knows.
//   facets:   {name, values, of, chips}: for each query the numbers of its values
//   entries:  {ids, texts, pictures}: of the gallery, as far as the page shows it
//   queries:  {ids, tasks, words, texts, pictures, names, targets, sizes}; names are those of the pictures

export const RANK = "rank of the target"; // a measure as others are, of which less is more

export class Report {
  constructor(data) {
    Object.assign(this, data);
    this.count = data.queries.ids.length;
    this.asked = data.rows.findIndex(({ part }) => part === "asked");
    this.measures = this.#measures();
    this.texts = [];
  }

  get compares() {
    return this.runs.length > 1;
  }

  // What a measure says of a query in a row; null where it has no such row or measure.
  value(row, measure, query) {
    const { ranks, values } = this.rows[row];
    return (measure === RANK ? ranks[query] || null : values.get(measure)?.[query]) ?? null;
  }

  // The same so that more is better.
  worth(row, measure, query) {
    const value = this.value(row, measure, query);
    return value !== null && this.lessIsBetter(measure) ? -value : value;
  }

  lessIsBetter(measure) {
    return measure === RANK || this.lower.includes(measure);
  }

  // The rows of a query that asked with the whole of it, one a run: [row].
  askedRows(query) {
    return this.#rowsOf("asked").filter((row) => this.rows[row].answers[query]);
  }

  // How far the composed query of a run is beyond the better of its halves; null where it has none.
  gap(measure, query, run) {
    const asked = this.askedRows(query).find((row) => this.rows[row].run === run);
    if (asked === undefined) return null;
    const halves = this.#rowsOf("half").filter((row) => this.rows[row].run === run);
    const worths = halves.map((row) => this.worth(row, measure, query)).filter((worth) => worth !== null);
    const own = this.worth(asked, measure, query);
    return own === null || !worths.length ? null : own - Math.max(...worths);
  }

  // How much more a query is worth in the second run than in the first.
  difference(measure, query) {
    const [first, second] = this.askedRows(query).map((row) => this.worth(row, measure, query));
    return first == null || second == null ? null : second - first;
  }

  // "better", "worse" or "equal": the second run against the first.
  outcome(measure, query) {
    const difference = this.difference(measure, query);
    if (difference === null) return null;
    return difference > 0 ? "better" : difference < 0 ? "worse" : "equal";
  }

  // All that a text may be looked for in: words, ids of the query, its groups and its targets.
  text(query) {
    this.texts[query] ??= [
      this.queries.ids[query],
      ...this.queries.words[query],
      this.queries.texts[query] ?? "",
      ...this.queries.names[query],
      ...this.queries.targets[query].map((entry) => this.entries.ids[entry]),
      ...this.facets.flatMap(({ values, of }) => of[query].map((value) => values[value])),
    ]
      .join("\n")
      .toLowerCase();
    return this.texts[query];
  }

  // The places at which an entry stands among a query's answers: [[row, place from 1]].
  places(entry, query) {
    const found = this.rows.map(({ answers }, row) => [row, 1 + (answers[query]?.indexOf(entry) ?? -1)]);
    return found.filter(([, place]) => place > 0);
  }

  // The rows that stand beside another one in some query: which of them are shown can be chosen.
  besideOthers() {
    const found = new Set();
    const all = [...this.rows.keys()];
    for (let query = 0; query < this.count && found.size < all.length; query += 1) {
      const own = all.filter((row) => this.rows[row].answers[query]);
      if (own.length > 1) for (const row of own) found.add(row);
    }
    return new Set(all.filter((row) => found.has(row)));
  }

  #rowsOf(part) {
    return [...this.rows.keys()].filter((row) => this.rows[row].part === part);
  }

  // The measures of all tasks, and the rank where any is known.
  #measures() {
    for (const row of this.rows) row.values = new Map(row.values);
    const names = new Set(this.rows.flatMap(({ values }) => [...values.keys()]));
    if (this.rows.some(({ ranks }) => ranks.some(Boolean))) names.add(RANK);
    return [...names];
  }
}
