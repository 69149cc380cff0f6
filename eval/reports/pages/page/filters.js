// The filters beside the list, made of what the report holds.

import { byId, element, settled } from "./elements.js";
import { scale } from "./matching.js";
import { number } from "./pieces.js";
import { RANK } from "./report.js";

const AT_ONCE = 8; // values of a facet that are shown without asking for the rest

// What the second of two runs is against the first.
export const OUTCOMES = ["better", "worse", "equal"];

function boxes(values, changed) {
  return values.map(([value, label]) => {
    const box = element("input", { type: "checkbox", change: changed });
    const many = element("small", {});
    return { value, box, many, line: element("label", {}, box, element("span", { title: label }, label), many) };
  });
}

function set(title, ...parts) {
  return element("fieldset", {}, element("legend", {}, title), ...parts);
}

export class Filters {
  // `changed(state => void)` is called with what is to be changed in the state.
  constructor(report, changed) {
    this.report = report;
    this.changed = changed;
    this.fields = new Map(); // facet or "outcome" -> its boxes
    const sets = [this.#words(), this.#outcome(), ...report.facets.map((facet, at) => this.#facet(facet, at))];
    sets.push(this.#rank(), this.#gap());
    this.#draw(sets.filter(Boolean));
  }

  #draw(sets) {
    const wide = matchMedia("(min-width: 60rem)");
    this.summary = element("summary", {}, "Filters");
    this.clear = element("button", { type: "button", class: "plain", hidden: true }, "Clear filters");
    const whole = element("details", { open: wide.matches }, this.summary, ...sets, this.clear);
    wide.addEventListener("change", () => (whole.open = wide.matches));
    byId("filters").replaceChildren(whole);
  }

  #words() {
    const later = settled(150, () => this.changed((state) => (state.words = this.words.value)));
    const typed = { id: "words", type: "search", placeholder: "words or ids", autocomplete: "off", input: later };
    this.words = element("input", { ...typed, "aria-label": "Words or ids", spellcheck: "false" });
    this.entry = element("button", { type: "button", class: "chip", hidden: true });
    this.entry.addEventListener("click", () => this.changed((state) => (state.entry = null)));
    return set("Words", this.words, this.entry);
  }

  #outcome() {
    if (!this.report.compares) return null;
    const [first, second] = this.report.runs;
    const labels = { better: `${second} is better`, worse: `${first} is better`, equal: "both alike" };
    const fields = boxes(
      OUTCOMES.map((outcome) => [outcome, labels[outcome]]),
      () => this.changed((state) => (state.outcomes = this.#chosen("outcome"))),
    );
    this.fields.set("outcome", fields);
    return set("Wins and losses", ...fields.map(({ line }) => line));
  }

  #facet({ name, values }, at) {
    const fields = boxes(
      values.map((value, number) => [number, value === "" ? "–" : value]),
      () => this.changed((state) => state.facets.set(at, this.#chosen(at))),
    );
    this.fields.set(at, fields);
    const lines = fields.map(({ line }) => line);
    const rest = lines.slice(AT_ONCE);
    const all = element("details", {}, element("summary", {}, `${number(rest.length)} more`), ...rest);
    return set(name, ...lines.slice(0, AT_ONCE), rest.length ? all : null);
  }

  #range(what, changed) {
    const field = (label) =>
      element("input", { type: "number", step: "any", "aria-label": `${what}, ${label}`, input: changed });
    const fields = { least: field("at least"), most: field("at most") };
    const to = element("span", { "aria-hidden": "true" }, "to");
    return { ...fields, line: element("div", { class: "range" }, fields.least, to, fields.most) };
  }

  #rank() {
    const { report } = this;
    if (!report.measures.includes(RANK)) return null;
    const rows = [...report.rows.keys()].filter((row) => report.rows[row].ranks.some(Boolean));
    const options = rows.map((row) => element("option", { value: row }, report.rows[row].name));
    const changed = () =>
      this.changed((state) => {
        state.rank = { row: Number(this.rankRow.value), ...this.#read(this.rank) };
      });
    this.rankRow = element("select", { "aria-label": "Rank in which row", change: changed }, ...options);
    this.rank = this.#range("Rank of the target", settled(200, changed));
    return set("Rank of the target", this.rankRow, this.rank.line);
  }

  #gap() {
    const { report } = this;
    if (!report.measures.length || !report.rows.some(({ part }) => part === "half")) return null;
    const changed = () =>
      this.changed((state) => {
        state.gap = { run: Number(this.gapRun.value), ...this.#read(this.gap) };
      });
    const runs = report.runs.map((name, run) => element("option", { value: run }, name));
    const choice = { "aria-label": "Gap in which result", hidden: !report.compares, change: changed };
    this.gapRun = element("select", choice, ...runs);
    this.gap = this.#range("Gap between composed and its better half", settled(200, changed));
    this.gapUnit = element("small", {});
    return set("Composed beyond its better half", this.gapRun, this.gap.line, this.gapUnit);
  }

  #read({ least, most }) {
    const value = (field) => (field.value === "" ? null : field.valueAsNumber);
    return { least: value(least), most: value(most) };
  }

  #chosen(name) {
    const chosen = this.fields.get(name).filter(({ box }) => box.checked);
    return new Set(chosen.map(({ value }) => value));
  }

  // Show a state, and how many queries each value would leave.
  show(state, counts) {
    if (this.words.value !== state.words && document.activeElement !== this.words) this.words.value = state.words;
    this.entry.hidden = state.entry === null;
    if (state.entry !== null) this.entry.textContent = `answered with ${this.report.entries.ids[state.entry]} ✕`;
    for (const [name, fields] of this.fields) {
      const chosen = name === "outcome" ? state.outcomes : state.facets.get(name);
      for (const { value, box, many, line } of fields) {
        const count = counts.get(name).get(value) ?? 0;
        box.checked = Boolean(chosen?.has(value));
        many.textContent = number(count);
        line.classList.toggle("none", !count && !box.checked);
      }
    }
    this.#showRanges(state);
    this.#showCount(state);
  }

  #showRanges(state) {
    const write = (fields, range) => {
      for (const side of ["least", "most"]) {
        if (document.activeElement !== fields[side]) fields[side].value = range[side] ?? "";
      }
    };
    if (this.rank) {
      write(this.rank, state.rank);
      if (state.rank.row !== null) this.rankRow.value = state.rank.row;
    }
    if (this.gap) {
      write(this.gap, state.gap);
      this.gapRun.value = state.gap.run;
      const unit = scale(state.measure) === 1 ? "ranks" : `points of ${state.measure}`;
      const less = this.report.lessIsBetter(state.measure) ? ", of which fewer are better" : "";
      this.gapUnit.textContent = `in ${unit}${less}`;
    }
  }

  #showCount(state) {
    const ranges = [state.rank, state.gap].filter(({ least, most }) => least !== null || most !== null);
    const facets = [...state.facets.values()].filter((values) => values.size);
    const set = [state.words.trim(), state.entry !== null, state.outcomes.size].filter(Boolean).length;
    const count = set + ranges.length + facets.length;
    this.summary.textContent = count ? `Filters (${count})` : "Filters";
    this.clear.hidden = count === 0;
  }
}
