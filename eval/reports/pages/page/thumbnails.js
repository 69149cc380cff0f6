// The pictures of the page, which stand in it once each however often they are shown.

import { byId } from "./elements.js";

const LEFT_OUT = -1;

export class Thumbnails {
  constructor(lengths) {
    this.all = byId("thumbnails").textContent;
    this.starts = [0];
    for (const length of lengths) this.starts.push(this.starts.at(-1) + length);
  }

  // The address of a thumbnail, for an <img>; null where there is none.
  address(at) {
    if (at < 0) return null;
    const file = this.all.slice(this.starts[at], this.starts[at + 1]);
    return `data:image/${file.startsWith("/9j/") ? "jpeg" : "webp"};base64,${file}`;
  }

  // Why there is none.
  why(at) {
    return at === LEFT_OUT ? "is left out" : "cannot be read";
  }
}
