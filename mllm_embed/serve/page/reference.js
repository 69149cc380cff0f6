// The picture to start from: dropped anywhere on the page, pasted, browsed for, or one of the gallery.

import { byId } from "./elements.js";
import { showReference } from "./pictures.js";

export const DRAGGED = "application/x-gallery-picture"; // what a dragged picture of the gallery says of itself

const dataOf = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });

export class Reference {
  // `chosen` is called with a reference that the user brought, or null where he took it away; `wrong` with a sentence.
  constructor(chosen, wrong) {
    this.value = null;
    this.chosen = chosen;
    this.wrong = wrong;
    this.box = byId("reference");
    this.preview = byId("preview");
    const file = byId("file");
    byId("browse").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      this.#take(file.files);
      file.value = ""; // so that the same file can be chosen again
    });
    byId("forget").addEventListener("click", () => {
      this.set(null);
      byId("browse").focus();
      chosen(null);
    });
    this.preview.addEventListener("error", () => this.box.classList.add("unseen"));
    addEventListener("paste", (event) => this.#paste(event));
    this.#listenToDrags();
  }

  set(reference) {
    this.value = reference;
    this.box.classList.remove("unseen");
    this.box.classList.toggle("filled", Boolean(reference));
    this.preview.hidden = byId("forget").hidden = !reference;
    byId("browse").lastElementChild.textContent = reference ? "Another picture" : "Drop, paste or browse a picture";
    this.preview.alt = reference ? `Picture to start from: ${reference.id ?? reference.name}` : "";
    this.preview.removeAttribute("src");
    delete this.preview.dataset.path;
    if (reference) showReference(this.preview, reference, 160);
  }

  async #take(files) {
    const file = [...files].find((one) => one.type.startsWith("image/"));
    if (!file) {
      if (files.length) this.wrong(`${files[0].name} is no picture: choose a JPEG, PNG or WebP file, say.`);
      return;
    }
    try {
      this.chosen({ name: file.name || "pasted picture", data: await dataOf(file) });
    } catch {
      this.wrong(`${file.name} cannot be read.`);
    }
  }

  #paste(event) {
    if (!event.clipboardData?.files.length) return; // words, which go where the cursor is
    event.preventDefault();
    this.#take(event.clipboardData.files);
  }

  // The whole page takes a drop: one that misses a small target would make the browser leave for the file.
  #listenToDrags() {
    let depth = 0; // enter and leave come for every element that the pointer passes
    const over = (change) => {
      depth = change === 0 ? 0 : Math.max(0, depth + change);
      document.body.classList.toggle("dragging", depth > 0);
    };
    addEventListener("dragenter", () => over(1));
    addEventListener("dragleave", () => over(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      over(0);
      this.#drop(event.dataTransfer);
    });
  }

  #drop(data) {
    const own = data.getData(DRAGGED);
    if (own) this.chosen(JSON.parse(own));
    else if (data.files.length) this.#take(data.files);
    else this.wrong("That is no file: save the picture first, then drop the file, or copy the picture and paste it.");
  }
}
