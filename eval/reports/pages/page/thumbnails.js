// The pictures of the page, which stand at its end, once each however often they are shown: figures, filters and cards
// need not wait for them.

import { byId } from "./elements.js";

const LEFT_OUT = -1;

export class Thumbnails {
  constructor(lengths) {
    this.all = null;
    this.waiting = []; // [image, at]
    this.starts = [0];
    for (const length of lengths) this.starts.push(this.starts.at(-1) + length);
    if (document.readyState === "loading") addEventListener("DOMContentLoaded", () => this.#arrive());
    else this.#arrive();
  }

  // Show a thumbnail in an <img>, at once or as soon as it is there.
  show(image, at) {
    if (this.all === null) this.waiting.push([image, at]);
    else image.src = this.#address(at);
  }

  // Why there is none.
  why(at) {
    return at === LEFT_OUT ? "is left out" : "cannot be read";
  }

  #arrive() {
    this.all = byId("thumbnails").textContent;
    for (const [image, at] of this.waiting.splice(0)) image.src = this.#address(at);
  }

  #address(at) {
    const file = this.all.slice(this.starts[at], this.starts[at + 1]);
    return `data:image/${file.startsWith("/9j/") ? "jpeg" : "webp"};base64,${file}`;
  }
}
