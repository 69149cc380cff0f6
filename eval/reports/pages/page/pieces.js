// What the report pages have beside the elements that they share with the page of `mllm-embed serve`.

import { byId, element } from "./elements.js";

// A line drawing that stands in the page as a template.
export const mark = (name) => byId(name).content.firstElementChild.cloneNode(true);

// A list of names and what they say: [[name, value]].
export function pairs(known) {
  const lines = known.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  return element("dl", {}, ...lines);
}

export const number = (count) => count.toLocaleString("en");
