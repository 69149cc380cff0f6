// Makes elements. What comes from the server or the user only ever becomes text or an attribute, never markup.

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

// A line drawing of the page's one style, from a path in a square of 24.
export function drawing(path) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "0 0 24 24");
  made.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  made.append(line);
  return made;
}

// "1 answer", "24 answers", "12,345 answers".
export const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

// Calls a function once, when it was not asked for again for so many milliseconds.
export function settled(milliseconds, call) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, milliseconds);
  };
}
