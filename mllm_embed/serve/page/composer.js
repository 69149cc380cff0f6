// The form: what to search for. It always shows the whole question that the answers below belong to.

import { byId, settled } from "./elements.js";
import { Reference } from "./reference.js";

const WITH_PICTURE = ["What should change?", "on snow instead"];
const WITHOUT_PICTURE = ["What are you looking for?", "a red bag on a table"];

export class Composer {
  // `asked` is called with {reference, words, avoid, strength, exclude}, `emptied` where the last part was taken
  // away, `wrong` with a sentence.
  constructor({ asked, emptied, wrong }) {
    this.words = byId("words");
    this.avoid = byId("avoid");
    this.strength = byId("strength");
    this.exclude = byId("exclude");
    this.asked = asked;
    this.reference = new Reference((reference) => {
      this.reference.set(reference);
      this.#fit();
      if (reference || this.words.value.trim()) asked(this.read());
      else emptied();
    }, wrong);
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      const question = this.read();
      if (question.reference || question.words) asked(question);
      else wrong("Give a picture, words, or both.");
    });
    this.#listenToKnobs();
    this.#openTuning();
  }

  read() {
    return {
      reference: this.reference.value,
      words: this.words.value.trim(),
      avoid: this.avoid.value.trim(),
      strength: this.strength.valueAsNumber,
      exclude: this.exclude.checked,
    };
  }

  // Show the question of a turn, or none.
  write(turn) {
    this.reference.set(turn?.reference ?? null);
    this.words.value = turn?.words ?? "";
    this.avoid.value = turn?.avoid ?? "";
    this.strength.value = turn?.strength ?? 1;
    this.exclude.checked = turn?.exclude ?? true;
    this.#fit();
  }

  // A knob that is turned asks again, once the hand rests; what is still being typed does not.
  #listenToKnobs() {
    const again = settled(200, () => this.reference.value && this.asked(this.read()));
    this.words.addEventListener("input", () => this.#fit());
    this.strength.addEventListener("input", () => {
      this.#fit();
      again();
    });
    this.exclude.addEventListener("change", again);
  }

  // Show the knobs that mean something: an edit's strength only where there is an edit.
  #fit() {
    const picture = Boolean(this.reference.value);
    const [label, example] = picture ? WITH_PICTURE : WITHOUT_PICTURE;
    byId("words-label").textContent = label;
    this.words.placeholder = example;
    byId("strength-knob").hidden = !(picture && this.words.value.trim());
    byId("exclude-knob").hidden = !picture;
    byId("strength-value").textContent = this.strength.valueAsNumber.toFixed(2);
  }

  // There is room for all knobs but on a phone.
  #openTuning() {
    const wide = matchMedia("(min-width: 45rem)");
    const fit = () => (byId("tuning").open = wide.matches);
    wide.addEventListener("change", fit);
    fit();
  }
}
