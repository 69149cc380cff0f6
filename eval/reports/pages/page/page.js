// The page: ties figures, filters and list together. All that is shown follows from the report and one state.

import { card } from "./card.js";
import { Closer } from "./closer.js";
import { byId, counted, element } from "./elements.js";
import { Filters } from "./filters.js";
import { List } from "./list.js";
import { matching, orders } from "./matching.js";
import { number } from "./pieces.js";
import { Report } from "./report.js";
import { drawSlice } from "./slice.js";
import { nothing, read, write } from "./state.js";
import { block, facts } from "./tables.js";
import { Thumbnails } from "./thumbnails.js";

class Page {
  constructor(data) {
    this.report = new Report(data);
    this.thumbnails = new Thumbnails(data.thumbnails);
    this.closer = new Closer(this.report, this.thumbnails, (entry) => this.answered(entry));
    this.list = new List((query) => card(this, query));
    this.filters = new Filters(this.report, (change) => this.change(change));
    this.filters.clear.addEventListener("click", () => this.clear());
    byId("clear-all").addEventListener("click", () => this.clear());
    this.#head();
    this.#choices();
    addEventListener("hashchange", () => this.visit());
    addEventListener("keydown", (event) => this.shortcut(event));
    this.visit();
  }

  // Show what the address asks for.
  visit() {
    this.state = this.#whole(read(location.hash.slice(1), this.report));
    this.draw();
  }

  change(change) {
    change(this.state);
    const said = write(this.state);
    history.replaceState(null, "", said ? `#${said}` : location.pathname + location.search);
    this.draw();
  }

  clear() {
    const { measure, sort, rows } = this.state;
    this.change((state) => Object.assign(state, { ...nothing(), measure, sort, rows }));
  }

  answered(entry) {
    const { measure, sort, rows } = this.state;
    this.change((state) => Object.assign(state, { ...nothing(), measure, sort, rows, entry }));
    byId("queries").scrollIntoView();
  }

  look(query, entry) {
    this.closer.open(query, entry);
  }

  draw() {
    const { found, counts } = matching(this.report, this.state);
    this.filters.show(this.state, counts);
    byId("measure").value = this.state.measure ?? "";
    byId("sort").value = this.state.sort;
    for (const button of byId("parts").children) {
      button.setAttribute("aria-pressed", String(this.state.rows.has(Number(button.value))));
    }
    const all = counted(this.report.count, "query", "queries");
    byId("status").textContent = found.length === this.report.count ? `${all}.` : `${number(found.length)} of ${all}.`;
    drawSlice(this.report, this.state, found);
    this.list.draw(found);
  }

  shortcut(event) {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    byId("filters").firstElementChild.open = true;
    byId("words").focus();
  }

  #head() {
    const { title, about, blocks, protocol, notes } = this.report;
    document.title = title;
    byId("title").textContent = title;
    byId("about").textContent = about;
    byId("figures").replaceChildren(...blocks.map(block));
    byId("details").replaceChildren(...(protocol.length ? [facts("Protocol", protocol)] : []));
    byId("details").append(...notes.map((note) => element("p", { class: "quiet" }, note)));
  }

  #choices() {
    const { measures, rows } = this.report;
    byId("measure").replaceChildren(...measures.map((name) => element("option", {}, name)));
    byId("measure").addEventListener("change", ({ target }) => this.change((state) => (state.measure = target.value)));
    byId("sort").replaceChildren(...orders(this.report).map(([value, name]) => element("option", { value }, name)));
    byId("sort").addEventListener("change", ({ target }) => this.change((state) => (state.sort = target.value)));
    const beside = this.report.besideOthers();
    byId("parts").hidden = beside.size < 2;
    const toggle = (row) =>
      this.change((state) => {
        if (!state.rows.delete(row)) state.rows.add(row);
      });
    const button = ({ name }, row) =>
      element("button", { type: "button", value: row, "aria-pressed": "false", click: () => toggle(row) }, name);
    byId("parts").replaceChildren(...[...beside].map((row) => button(rows[row], row)));
  }

  // A state with a measure and rows, where the address names none.
  #whole(state) {
    const { measure, measures, rows } = this.report;
    const shown = [...rows.keys()].filter((row) => rows[row].shown);
    const first = measures.includes(measure) ? measure : measures[0];
    return { ...state, measure: state.measure ?? first ?? null, rows: state.rows ?? new Set(shown) };
  }
}

new Page(JSON.parse(byId("data").textContent));
