// A grid of pictures: cards, the way of the arrow keys through them, and which of them a cut-off hides.

import { element } from "./elements.js";
import { showPicture } from "./pictures.js";
import { DRAGGED } from "./reference.js";

const WIDTH = 320; // of a picture, CSS pixels: what the grid's columns come near to
const STEPS = {
  ArrowLeft: () => -1,
  ArrowRight: () => 1,
  ArrowUp: (columns) => -columns,
  ArrowDown: (columns) => columns,
};

export function shown(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return String(Number(value.toPrecision(7))); // 0.1 + 0.2 is 0.3 to the eye
  return Array.isArray(value) ? value.map(shown).join(", ") : String(value);
}
export const score = (value) => value.toFixed(3);

// A value of a row beside others, where its column is not named: yes and no say nothing by themselves.
function brief([name, value]) {
  if (typeof value === "boolean") return value ? name : `${name}: no`;
  return shown(value);
}

// The few values of a row that fit under its picture.
function facts(metadata) {
  const known = Object.entries(metadata ?? {}).filter(([, value]) => value != null && value !== "");
  return known.slice(0, 3).map(brief).join(" · ");
}

function card(row, { choose, look, explains }) {
  const lookLabel = row.rank && explains ? "Why" : "Look";
  const name = row.rank ? `answer ${row.rank}, ${row.id}, score ${score(row.score)}` : row.id;
  const image = element("img", { alt: row.id, loading: "lazy", decoding: "async", draggable: "false" });
  const label = row.picture ? `Go on from ${name}` : `${lookLabel} ${name}`;
  // only a picture can be gone on from: a text is looked at
  const click = () => (row.picture ? choose(row) : look(row));
  const button = element(
    "button",
    { type: "button", class: "choose", "aria-label": label, draggable: String(Boolean(row.picture)), click },
    row.picture ? image : element("span", { class: "no-picture" }, row.id),
    row.picture ? element("span", { class: "go", "aria-hidden": "true" }, "Go on") : null,
  );
  if (row.picture) showPicture(image, row.picture, WIDTH);
  image.addEventListener("error", () => button.classList.add("unseen"));
  button.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData(DRAGGED, JSON.stringify({ id: row.id, picture: row.picture }));
  });
  const closer = { type: "button", class: "look", "aria-label": `${lookLabel} ${name}`, click: () => look(row) };
  return element(
    "li",
    { class: "card" },
    button,
    element(
      "div",
      { class: "under" },
      row.rank ? element("span", { class: "score" }, score(row.score)) : null,
      element("span", { class: "id", title: row.id }, row.id),
      element("button", closer, lookLabel),
    ),
    element("p", { class: "facts" }, facts(row.metadata)),
  );
}

export class Grid {
  // `actions`: choose(row) goes on from a picture, look(row) shows it more closely, and why it matched where
  // `explains` is true.
  constructor(list, actions) {
    this.list = list;
    this.actions = actions;
    this.rows = [];
    list.addEventListener("keydown", (event) => this.#move(event));
    list.addEventListener("focusin", (event) => this.#stopAt(event.target.closest(".card")));
  }

  // Draw rows in place of what is there. The first ones stay where they are the same: more answers do not flicker.
  draw(rows) {
    const other = this.rows.findIndex((row, at) => row.id !== rows[at]?.id || row.score !== rows[at]?.score);
    const same = other < 0 ? this.rows.length : other;
    const kept = [...this.list.children].slice(0, same);
    const made = rows.slice(same).map((row) => card(row, this.actions));
    this.rows = rows;
    this.list.replaceChildren(...kept, ...made);
    this.#stopAt(this.list.querySelector(".card:focus-within") ?? this.list.firstElementChild);
  }

  // Mark the pictures of these ids.
  mark(ids, words) {
    for (const [at, item] of [...this.list.children].entries()) {
      item.querySelector(".mark")?.remove();
      const marked = ids.has(this.rows[at].id);
      if (marked) item.prepend(element("span", { class: "mark", id: `mark-${at}` }, words));
      if (marked) item.querySelector(".choose").setAttribute("aria-describedby", `mark-${at}`);
      else item.querySelector(".choose").removeAttribute("aria-describedby");
    }
  }

  // Hide answers whose score is under the cut-off; returns how many they are.
  cut(least) {
    let hidden = 0;
    for (const [at, item] of [...this.list.children].entries()) {
      item.hidden = this.rows[at].score < least;
      hidden += item.hidden;
    }
    return hidden;
  }

  focus(at) {
    this.list.children[at]?.querySelector(".choose").focus();
  }

  // One stop for the Tab key in the whole grid, the card where the arrow keys are: nobody tabs through a hundred.
  #stopAt(current) {
    for (const item of this.list.children) {
      for (const button of item.querySelectorAll("button")) button.tabIndex = item === current ? 0 : -1;
    }
  }

  #move(event) {
    const cards = [...this.list.children].filter((item) => !item.hidden);
    const at = cards.indexOf(event.target.closest(".card"));
    const columns = cards.filter((item) => item.offsetTop === cards[0].offsetTop).length;
    const edges = { Home: 0, End: cards.length - 1 };
    const to = edges[event.key] ?? at + (STEPS[event.key]?.(columns) ?? NaN);
    if (!(to in cards) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    cards[to].querySelector(".choose").focus();
  }
}
