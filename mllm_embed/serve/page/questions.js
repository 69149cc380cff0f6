// What is asked of the server: a turn as a whole, its picture alone, or its words alone.

export const PARTS = ["both", "picture", "words"];

// Whether a turn has a picture and words, so that its parts can be told apart.
export const isComposed = (turn) => Boolean(turn.reference && turn.words);

// The request for a part of a turn, in the words of POST /v1/search; `more` is asked besides.
export function question(turn, part, more = {}) {
  const { reference, words } = turn;
  const asked = { k: turn.k };
  if (reference && part !== "words") {
    if (reference.data) asked.image = reference.data;
    else asked.id = reference.id;
    asked.exclude_reference = turn.exclude;
  }
  if (words && part !== "picture") asked.instruction = words;
  if (isComposed(turn) && part === "both") asked.edit_strength = turn.strength;
  if (turn.avoid) asked.avoid = turn.avoid;
  if (turn.filter) asked.filter = turn.filter;
  return { ...asked, ...more };
}

// Ids that the picture and the words find only together: neither alone has them among its first answers.
export function onlyTogether({ both, picture, words }) {
  const alone = new Set([...picture.hits, ...words.hits].map((hit) => hit.id));
  return new Set(both.hits.map((hit) => hit.id).filter((id) => !alone.has(id)));
}
