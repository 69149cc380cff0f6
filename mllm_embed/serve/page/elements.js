// Makes elements, here and on report pages. What comes from a server, a user or a report's data only ever becomes text
// or an attribute, never markup.

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
