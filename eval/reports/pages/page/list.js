// The list of queries: cards are made as they come into sight, and arrow keys go from picture to picture.

import { byId } from "./elements.js";
import { number } from "./pieces.js";

const STEP = 20; // cards that are made at once

export class List {
  constructor(make) {
    this.make = make; // query => card
    this.list = byId("list");
    this.more = byId("more");
    this.queries = [];
    this.shown = 0;
    this.more.addEventListener("click", () => {
      const before = this.shown;
      this.grow();
      this.#tiles(before)[0]?.focus();
    });
    const near = new IntersectionObserver(([seen]) => seen.isIntersecting && this.grow(), { rootMargin: "1200px" });
    near.observe(this.more);
    this.list.addEventListener("keydown", (event) => this.#move(event));
    this.list.addEventListener("focusin", (event) => this.#stopAt(event.target.closest(".tile")));
  }

  draw(queries) {
    this.queries = queries;
    this.shown = 0;
    this.list.replaceChildren();
    byId("empty").hidden = queries.length > 0;
    this.grow();
  }

  grow() {
    const next = this.queries.slice(this.shown, this.shown + STEP);
    this.list.append(...next.map(this.make));
    this.shown += next.length;
    const left = this.queries.length - this.shown;
    this.more.hidden = left === 0;
    byId("printed").textContent = left ? `On paper are the first ${number(this.shown)} of them.` : "";
    this.more.textContent = `More queries (${number(left)} left)`;
    if (!this.stop?.isConnected) this.#stopAt(this.list.querySelector(".rows .tile"));
  }

  #tiles(card) {
    return [...(this.list.children[card]?.querySelectorAll(".tile") ?? [])];
  }

  // One stop for the Tab key in the whole list, the picture where the arrow keys are: nobody tabs through thousands.
  #stopAt(tile) {
    if (!tile) return;
    if (this.stop) this.stop.tabIndex = -1;
    this.stop = tile;
    tile.tabIndex = 0;
  }

  #move(event) {
    const tile = event.target.closest(".tile");
    if (!tile || event.altKey || event.ctrlKey || event.metaKey) return;
    const row = tile.closest("ol");
    const place = [...row.children].indexOf(tile.parentElement);
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: row.children.length - 1 };
    const beside = row.children[to[event.key]]?.firstElementChild;
    const next = beside ?? this.#inRow({ ArrowUp: -1, ArrowDown: 1 }[event.key], row, place);
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.closest("section").scrollIntoView({ block: "nearest" });
  }

  // The picture at the same place in the row of answers before or after.
  #inRow(step, row, place) {
    if (!step) return null;
    if (step > 0 && this.list.lastElementChild.contains(row)) this.grow();
    const rows = [...this.list.querySelectorAll(".answers")];
    const other = rows[rows.indexOf(row) + step];
    return other && (other.children[Math.min(place, other.children.length - 1)]?.firstElementChild ?? null);
  }
}
