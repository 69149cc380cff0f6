// Draws the turns: where the search came from, each step a way back.

import { byId, element } from "./elements.js";
import { showReference } from "./pictures.js";

// What a turn asked for, in words.
export function inWords(turn) {
  const said = turn.words || (turn.reference ? "like this" : "");
  return turn.avoid ? `${said}, without ${turn.avoid}` : said;
}

function step(turn, at, turns) {
  const here = at === turns.at;
  const name = turn ? inWords(turn) : "Gallery";
  const { reference } = turn ?? {};
  const image = reference && element("img", { alt: reference.id ?? reference.name, draggable: "false" });
  if (image) showReference(image, reference, 48);
  const button = element(
    "button",
    { type: "button", "aria-current": here && "step", title: name, click: () => turns.go(at) },
    image,
    element("span", {}, name),
  );
  return element("li", { class: at > turns.at ? "later" : null }, button);
}

export function drawTrail(turns) {
  const list = byId("trail");
  list.hidden = turns.all.length === 0;
  list.replaceChildren(step(null, -1, turns), ...turns.all.map((turn, at) => step(turn, at, turns)));
  list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
