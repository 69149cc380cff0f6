// Asks for the key of a server that wants one.

import { byId } from "./elements.js";

// Returns a promise of the key, null where the user closes the question. `wrong`: the last one was not taken.
export function askForKey(wrong) {
  const dialog = byId("key");
  const field = byId("key-value");
  byId("key-wrong").hidden = !wrong;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const answer = () => resolve(dialog.returnValue === "given" ? field.value : null);
    dialog.addEventListener("close", answer, { once: true });
  });
}
