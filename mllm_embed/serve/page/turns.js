// The turns of a search: what was asked, one after the other. The browser's back and forward go through them, and
// a reload keeps them. Turn -1 is the gallery, before anything was asked.
//
// A turn: {reference, words, avoid, strength, exclude, filter, k, part, answers}. Its reference is null, a picture of
// the gallery {id, picture}, or one that the user brought {name, data}, a data URI. `answers` holds what was answered
// to each part of it, and is not kept over a reload: the server is asked again.

const KEPT = "mllm_embed.turns";
export const FIRST = 24; // answers that are asked for at first, and more each time

const samePicture = (one, other) => one?.id === other?.id && one?.data === other?.data;

// Whether a question only says more clearly what a turn asked: it takes its place then, and is no new turn.
const refines = (turn, asked) =>
  Boolean(turn) && samePicture(turn.reference, asked.reference) && (turn.words === "" || turn.words === asked.words);

// What another version of this page kept may be anything.
function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

const withoutData = (reference) => reference && { ...reference, data: null };

export class Turns {
  // `changed` is called with the current turn, or null for the gallery, whenever another is current.
  constructor(changed) {
    this.changed = changed;
    this.all = [];
    this.at = -1;
    this.#restore();
    addEventListener("popstate", (event) => this.#visit(event.state));
  }

  get current() {
    return this.all[this.at] ?? null;
  }

  // Ask something: {reference, words, avoid, strength, exclude, filter}. A new turn takes the place of all after the
  // current one, as a new page does in a browser.
  ask(asked) {
    const turn = { k: FIRST, part: "both", ...asked, answers: {} };
    if (refines(this.current, asked)) {
      const same = this.current.words === asked.words;
      this.all[this.at] = same ? { ...turn, k: this.current.k, part: this.current.part } : turn;
      this.save();
    } else {
      this.all = [...this.all.slice(0, this.at + 1), turn];
      this.at += 1;
      this.save();
      history.pushState(this.#state(), "");
    }
    this.changed(this.current);
  }

  // Go back, or forward, to a turn.
  go(to) {
    if (to !== this.at) history.go(to - this.at);
  }

  #state() {
    return { trail: this.name, at: this.at };
  }

  #visit(state) {
    if (state?.trail !== this.name || state.at >= this.all.length) return;
    this.at = state.at;
    this.changed(this.current);
  }

  #restore() {
    const kept = read();
    if (kept && history.state?.trail === kept.name && history.state.at < kept.turns.length) {
      this.name = kept.name;
      this.all = kept.turns.map((turn) => ({ ...turn, answers: {} }));
      this.at = history.state.at;
    } else {
      this.name = crypto.getRandomValues(new Uint32Array(2)).join("-");
      history.replaceState(this.#state(), "");
    }
  }

  // A tab keeps about 5 MB: where pictures that the user brought do not fit, the turns are kept without them.
  save() {
    const turns = this.all.map(({ answers, ...turn }) => turn);
    const write = (kept) => sessionStorage.setItem(KEPT, JSON.stringify({ name: this.name, turns: kept }));
    try {
      write(turns);
    } catch {
      write(turns.map((turn) => ({ ...turn, reference: withoutData(turn.reference) })));
    }
  }
}
