// Makes elements. What comes from the data only ever becomes text or an attribute, never markup.

export const byId = (id) => document.getElementById(id);

// A new element. Attributes whose value is false, null or undefined are left out; functions become listeners,
// {click: f}. Children are elements or texts; null is left out.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

// A line drawing that stands in the page as a template.
export const drawing = (name) => byId(name).content.firstElementChild.cloneNode(true);

// A list of names and what they say: [[name, value]].
export function pairs(known) {
  const lines = known.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  return element("dl", {}, ...lines);
}

// "1 query", "24 queries", "12,345 queries".
export const counted = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

export const number = (count) => count.toLocaleString("en");

// Calls a function once, when it was not asked for again for so many milliseconds.
export function settled(milliseconds, call) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, milliseconds);
  };
}
