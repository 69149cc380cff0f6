// One picture, looked at more closely: large, with all that is known of it, and why it matched.

import { drawing } from "./drawing.js";
import { byId, element } from "./elements.js";
import { score, shown } from "./grid.js";
import { showPicture } from "./pictures.js";

// Words with their weights, as bars; those that the query and the answer share stand out.
function wordList(title, words, shared) {
  const most = Math.max(...words.map(([, weight]) => weight), 1e-9);
  const items = words.map(([word, weight]) => {
    const bar = element("span", { class: "weight", "aria-hidden": "true" });
    bar.style.inlineSize = `${(100 * Math.max(0, weight)) / most}%`;
    const both = shared.has(word);
    const said = both ? element("span", { class: "hidden" }, " (in both)") : null;
    return element("li", { class: both && "shared" }, bar, element("span", { class: "word" }, word), said);
  });
  return element("div", {}, element("h4", {}, title), element("ul", { class: "words" }, ...items));
}

function reasons(hitWords, queryWords) {
  if (!hitWords.length) return [element("p", { class: "quiet" }, "The model has no words for this one.")];
  const said = new Set(queryWords.map(([word]) => word));
  const shared = new Set(hitWords.map(([word]) => word).filter((word) => said.has(word)));
  const sentence = shared.size
    ? "What the model would say of the search and of this picture; words in colour are said of both."
    : "What the model would say of the search and of this picture.";
  return [
    element("p", { class: "quiet" }, sentence),
    element(
      "div",
      { class: "reasons" },
      wordList("The search", queryWords, shared),
      wordList("This picture", hitWords, shared),
    ),
  ];
}

function knownOf(row) {
  const known = Object.entries(row.metadata ?? {}).filter(([, value]) => value != null);
  const pairs = known.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, shown(value))]);
  return pairs.length ? element("dl", {}, ...pairs) : null;
}

export class Closer {
  // `choose(row)` goes on from a picture; `explain(row, signal)` holds {words, queryWords}, or is null where the model
  // cannot say.
  constructor({ choose, explain }) {
    this.dialog = byId("closer");
    this.choose = choose;
    this.explain = explain;
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => this.asking?.abort());
  }

  open(row) {
    const image = element("img", { alt: row.id });
    if (row.picture) showPicture(image, row.picture, 640);
    const facts = row.rank ? element("p", { class: "quiet" }, `Answer ${row.rank}, score ${score(row.score)}`) : null;
    const why = element("section", { class: "why", "aria-live": "polite" });
    const go = { type: "button", class: "main", click: () => this.#goOn(row) };
    const goOn = row.picture ? element("button", go, "Go on from it") : null;
    const title = element("h3", { id: "closer-title" }, row.id);
    const place = { class: row.picture ? "about" : "about alone" };
    const about = element("div", place, title, facts, goOn, knownOf(row), why);
    this.dialog.replaceChildren(...[this.#closeButton(), row.picture ? image : null, about].filter(Boolean));
    this.dialog.showModal();
    goOn?.focus();
    if (row.rank && this.explain) this.#say(row, why);
  }

  #closeButton() {
    const close = { type: "button", class: "forget", "aria-label": "Close", click: () => this.dialog.close() };
    return element("button", close, drawing("M6 6l12 12M18 6 6 18"));
  }

  #goOn(row) {
    this.dialog.close();
    this.choose(row);
  }

  async #say(row, why) {
    this.asking = new AbortController();
    const title = element("h3", {}, "Why it matched");
    why.replaceChildren(title, element("p", { class: "quiet" }, "Asking the model …"));
    try {
      const { words, queryWords } = await this.explain(row, this.asking.signal);
      why.replaceChildren(title, ...reasons(words, queryWords));
    } catch (error) {
      if (error.name !== "AbortError") why.replaceChildren(title, element("p", { class: "alert" }, error.message));
    }
  }
}
