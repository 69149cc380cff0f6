// How the page is doing: busy, wrong, or with nothing to show. Said to the eye and to a screen reader.

import { byId, element } from "./elements.js";

const NO_GALLERY =
  "This server has a model and no gallery: it answers with embeddings alone. To search pictures here, start it with " +
  "them: mllm-embed serve GALLERY --model M, where GALLERY is a folder of pictures, or what mllm-embed encode wrote.";

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

// Without a gallery there is nothing that could be asked, so that no form is shown which answers nothing.
export function giveUp(error) {
  byId("composer").hidden = byId("progress").hidden = true;
  byId("title").textContent = "Nothing to search";
  say("");
  if (error.status === 404) showEmpty(NO_GALLERY);
  else wrong(error.message);
}
