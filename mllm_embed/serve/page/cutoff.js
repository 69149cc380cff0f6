// A cut-off for scores: a ranking always answers, and only the user can say from where on it is nonsense.

import { byId } from "./elements.js";

export class Cutoff {
  constructor(changed) {
    this.slider = byId("cut");
    this.slider.addEventListener("input", () => {
      this.#say();
      changed();
    });
  }

  // The least score that is shown; everything is where the slider stands at its left end.
  get least() {
    return this.slider.valueAsNumber > 0 ? this.slider.valueAsNumber : -Infinity;
  }

  off() {
    this.slider.value = 0;
    this.#say();
  }

  // Shows the slider with a line for the score of each answer, which says where a cut may be sensible.
  draw(hits) {
    byId("cut-knob").hidden = hits.length === 0;
    const lines = hits.map(({ score }) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const place = { x: 100 * Math.min(1, Math.max(0, score)) - 0.2, y: 0, width: 0.4, height: 10 };
      for (const [name, value] of Object.entries(place)) line.setAttribute(name, value);
      return line;
    });
    byId("cut-scores").replaceChildren(...lines);
  }

  #say() {
    const value = this.slider.valueAsNumber;
    byId("cut-value").textContent = value > 0 ? value.toFixed(2) : "off";
    this.slider.setAttribute("aria-valuetext", value > 0 ? `hide answers under ${value.toFixed(2)}` : "off");
  }
}
