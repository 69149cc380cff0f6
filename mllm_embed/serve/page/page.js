// The page: ties the form, the turns and the grid together. Everything that is shown follows from the current turn.

import * as api from "./api.js";
import { Closer } from "./closer.js";
import { Composer } from "./composer.js";
import { Cutoff } from "./cutoff.js";
import { byId, counted, settled } from "./elements.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { askForKey } from "./key.js";
import { PARTS, isComposed, onlyTogether, question } from "./questions.js";
import { giveUp, say, showEmpty, whileBusy, wrong } from "./state.js";
import { Tabs } from "./tabs.js";
import { drawTrail, inWords } from "./trail.js";
import { FIRST, Turns } from "./turns.js";

const PAGE = 60; // pictures of the gallery that come at once
const MOST = 960; // answers: a server's own limit is 1,000, where it was given no other
const TITLE = document.title;

async function start() {
  api.onKey(askForKey);
  const facts = await galleryOnceLoaded();
  byId("composer").inert = false; // what is typed before would be lost
  byId("gallery-facts").textContent = `${counted(facts.rows, "picture", "pictures")} · ${facts.model}`;
  new Page(facts);
}

// A server answers before its model is loaded: that it is busy.
async function galleryOnceLoaded() {
  while (true) {
    try {
      return await api.gallery();
    } catch (error) {
      if (error.status !== 503) throw error;
      byId("progress").hidden = false;
      say(error.message);
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.wait || 1)));
    }
  }
}

class Page {
  constructor(facts) {
    const choose = (row) => this.goOn(row);
    const explain = facts.speaks ? (row, signal) => this.explain(row, signal) : null;
    this.closer = new Closer({ choose, explain });
    this.grid = new Grid(byId("grid"), { choose, look: (row) => this.closer.open(row), explains: facts.speaks });
    this.cutoff = new Cutoff(() => this.cut());
    this.tabs = new Tabs((part) => this.showPart(part));
    this.filters = new Filters(facts.columns ?? {}, settled(200, () => this.refilter()));
    this.composer = new Composer({
      asked: (asked) => this.turns.ask({ ...asked, filter: this.filters.read() }),
      emptied: () => this.turns.go(-1),
      wrong,
    });
    this.turns = new Turns(() => this.show());
    this.latest = new AbortController(); // of what is being shown; whatever is older is given up
    byId("more").addEventListener("click", () => this.more());
    addEventListener("keydown", (event) => this.shortcut(event));
    this.show();
  }

  // Show the current turn and its answers, or the gallery.
  show() {
    const turn = this.turns.current;
    wrong(null);
    document.title = turn ? `${inWords(turn)} · ${TITLE}` : TITLE;
    drawTrail(this.turns);
    this.composer.write(turn);
    if (turn) this.filters.write(turn.filter);
    this.tabs.write(turn && isComposed(turn) ? turn.part : null);
    return turn ? this.answer(turn) : this.browse();
  }

  // A picture of the gallery, or an answer, becomes the reference of the next turn.
  goOn(row) {
    const { exclude } = this.composer.read();
    const reference = { id: row.id, picture: row.picture };
    this.turns.ask({ reference, words: "", avoid: "", strength: 1, exclude, filter: this.filters.read() });
    scrollTo({ top: 0 });
    // on a phone the keyboard would come up and hide the answers
    if (matchMedia("(pointer: fine)").matches) this.composer.words.focus();
  }

  browse(after = 0) {
    this.cutoff.draw([]);
    return this.#ask(async (signal) => {
      const { total, rows } = await api.rows(after, PAGE, this.filters.read(), signal);
      const all = after ? [...this.grid.rows, ...rows] : rows;
      this.total = total;
      byId("title").textContent = "Gallery";
      this.grid.draw(all);
      say(`${counted(total, "picture", "pictures")}. Choose one to start from, or bring your own.`);
      this.#offerMore(all.length < total, `More pictures (${(total - all.length).toLocaleString("en")} left)`);
      if (after) this.grid.focus(after);
      if (!total) this.#nothingThere();
      else showEmpty(null);
    });
  }

  // The part that is looked at comes first; the others follow, so that it shows what the composition adds.
  answer(turn) {
    const part = isComposed(turn) ? turn.part : "both";
    const look = async (signal) => {
      this.#checkPicture(turn);
      turn.answers[part] ??= await api.search(question(turn, part), signal);
      this.draw(turn, part);
    };
    const compare = async (signal) => {
      for (const other of PARTS) turn.answers[other] ??= await api.search(question(turn, other), signal);
      this.mark(turn, part);
    };
    return this.#ask(look, isComposed(turn) ? compare : null);
  }

  draw(turn, part) {
    const { hits } = turn.answers[part];
    byId("title").textContent = "Answers";
    this.grid.draw(hits);
    this.cutoff.draw(hits);
    this.mark(turn, part);
  }

  mark(turn, part) {
    const complete = isComposed(turn) && PARTS.every((one) => turn.answers[one]);
    const together = complete && part === "both" ? onlyTogether(turn.answers) : new Set();
    this.grid.mark(together, "only together");
    this.added = together.size;
    this.cut();
  }

  // Hide what lies under the cut-off, and say how much that is.
  cut() {
    const turn = this.turns.current;
    if (!turn) return;
    const hits = this.grid.rows;
    const below = this.grid.cut(this.cutoff.least);
    // where some are below the cut-off, more of them would be as well
    this.#offerMore(hits.length === turn.k && turn.k < MOST && !below, "More answers");
    const seen = hits.length - below;
    const sentences = seen ? [`${counted(seen, "answer", "answers")}, the best first.`] : [];
    if (below) sentences.push(`${counted(below, "answer is", "answers are")} below the cut-off.`);
    const only = `${this.added} of the ${hits.length} are found only by picture and words together.`;
    if (this.added && seen) sentences.push(only);
    say(sentences.join(" "));
    if (!hits.length) this.#nothingThere();
    else if (!seen) this.#nothingAbove(hits[0].score);
    else showEmpty(null);
  }

  showPart(part) {
    this.turns.current.part = part;
    this.turns.save();
    this.answer(this.turns.current);
  }

  refilter() {
    const asked = { ...this.composer.read(), filter: this.filters.read() };
    if (!this.turns.current) this.browse();
    else if (asked.reference || asked.words) this.turns.ask(asked);
    else this.turns.go(-1);
  }

  more() {
    const turn = this.turns.current;
    if (!turn) return this.browse(this.grid.rows.length);
    const before = this.grid.rows.length;
    turn.k += FIRST;
    turn.answers = {};
    return this.answer(turn).then(() => this.grid.focus(before));
  }

  // Why one answer matched: the same question, which only it may answer.
  async explain(row, signal) {
    const turn = this.turns.current;
    const part = isComposed(turn) ? turn.part : "both";
    const asked = question(turn, part, { allow: [row.id], k: 1, exclude_reference: false, explain: true });
    const { hits, words } = await api.search(asked, signal);
    return { words: hits[0]?.words ?? [], queryWords: words ?? [] };
  }

  shortcut(event) {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.composer.words.focus();
    this.composer.words.select();
  }

  // Ask the server for something that is to be shown, unless something else is by the time that it comes. `afterwards`
  // is done when it is shown, and nobody waits for it.
  async #ask(work, afterwards) {
    this.latest.abort();
    this.latest = new AbortController();
    const { signal } = this.latest;
    try {
      await whileBusy(signal, () => work(signal));
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
      return;
    }
    if (afterwards) afterwards(signal).catch((error) => signal.aborted || wrong(error.message));
  }

  // Answers to an older question do not stay under a newer one that has none.
  #fail(error) {
    this.grid.draw([]);
    this.cutoff.draw([]);
    this.#offerMore(false);
    showEmpty(null);
    say("");
    wrong(error.message);
  }

  #checkPicture({ reference }) {
    if (!reference || reference.id || reference.data) return;
    throw new Error(`${reference.name} was too large to be kept while the page was loaded again: bring it once more.`);
  }

  #offerMore(there, label = "") {
    byId("more").hidden = !there;
    byId("more").textContent = label;
  }

  #nothingThere() {
    if (!this.filters.read()) showEmpty("The gallery is empty.");
    else showEmpty("Nothing in the gallery fits these filters.", "Clear filters", () => this.filters.clear.click());
  }

  #nothingAbove(best) {
    const sentence = `No answer reaches ${this.cutoff.least.toFixed(2)}; the best has ${best.toFixed(3)}.`;
    showEmpty(sentence, "Show them anyway", () => {
      this.cutoff.off();
      this.cut();
    });
  }
}

start().catch(giveUp);
