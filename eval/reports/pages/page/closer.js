// One entry of the gallery, looked at more closely: what it is, and where it stands among the answers.

import { byId, counted, element } from "./elements.js";
import { mark, pairs } from "./pieces.js";

export class Closer {
  // `show(entry)` shows the queries that are answered with an entry.
  constructor(report, thumbnails, show) {
    this.report = report;
    this.thumbnails = thumbnails;
    this.show = show;
    this.dialog = byId("closer");
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  open(query, entry) {
    const { ids, texts, pictures } = this.report.entries;
    const images = pictures[entry].map((at) => this.#picture(at, ids[entry]));
    const about = element(
      "div",
      { class: "about" },
      element("h3", { id: "closer-title" }, ids[entry]),
      texts[entry] ? element("p", {}, texts[entry]) : null,
      this.#places(query, entry),
      this.#others(entry),
    );
    const close = { type: "button", class: "forget", "aria-label": "Close", click: () => this.dialog.close() };
    const shown = images.length ? element("div", { class: "images" }, ...images) : null;
    this.dialog.replaceChildren(...[element("button", close, mark("close-mark")), shown, about].filter(Boolean));
    this.dialog.showModal();
  }

  #picture(at, name) {
    if (at < 0) return element("p", { class: "quiet" }, `The picture ${this.thumbnails.why(at)}.`);
    const image = element("img", { alt: name });
    this.thumbnails.show(image, at);
    return image;
  }

  #places(query, entry) {
    const { rows, queries } = this.report;
    const places = this.report.places(entry, query);
    const known = places.map(([row, place]) => [rows[row].name, `answer ${place}`]);
    if (queries.targets[query].includes(entry)) known.unshift(["for this query", "a target"]);
    return known.length ? pairs(known) : null;
  }

  // A picture that answers many queries is often a fault: they can be looked at.
  #others(entry) {
    const { report } = this;
    const all = [...Array(report.count).keys()];
    const counts = report.rows.map(({ name, answers }) => {
      return [name, all.filter((query) => answers[query]?.includes(entry)).length];
    });
    const some = counts.filter(([, count]) => count).map(([name, count]) => [name, counted(count, "query", "queries")]);
    if (!some.length) return null;
    const go = () => {
      this.dialog.close();
      this.show(entry);
    };
    return element(
      "section",
      {},
      element("h4", {}, "Among the answers of"),
      pairs(some),
      element("button", { type: "button", class: "main", click: go }, "Show these queries"),
    );
  }
}
