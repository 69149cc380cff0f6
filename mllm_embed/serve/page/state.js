// How the page is doing: busy, wrong, or with nothing to show. Said to the eye and to a screen reader.

import { byId, element } from "./elements.js";

// What there is, in a sentence.
export function say(sentence) {
  if (byId("status").textContent !== sentence) byId("status").textContent = sentence;
}

// What went wrong, in a sentence; null takes it away.
export function wrong(sentence) {
  byId("alert").hidden = !sentence;
  byId("alert").textContent = sentence ?? "";
}

// Why there is nothing to see, and what can be done about it; null where there is something.
export function showEmpty(sentence, label, act) {
  const box = byId("empty");
  box.hidden = !sentence;
  const parts = sentence ? [element("p", {}, sentence)] : [];
  if (sentence && label) parts.push(element("button", { type: "button", click: act }, label));
  box.replaceChildren(...parts);
}

// Show that something is being waited for, until it has come or was given up for something newer.
export async function whileBusy(signal, work) {
  const show = (busy) => {
    byId("answers").setAttribute("aria-busy", String(busy));
    byId("progress").hidden = !busy;
  };
  show(true);
  try {
    return await work();
  } finally {
    if (!signal.aborted) show(false);
  }
}
