// The three tabs: both, the picture alone, the words alone.

import { byId } from "./elements.js";
import { PARTS } from "./questions.js";

export class Tabs {
  constructor(chosen) {
    this.box = byId("parts");
    this.tabs = [...this.box.querySelectorAll("[role=tab]")];
    for (const tab of this.tabs) {
      tab.addEventListener("click", () => {
        this.write(tab.dataset.part);
        chosen(tab.dataset.part);
      });
    }
    this.box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const to = this.tabs.at((this.tabs.indexOf(event.target) + step) % this.tabs.length);
      to.focus();
      to.click();
    });
  }

  // Show which part is chosen; null where a turn has but one.
  write(part) {
    this.box.hidden = !PARTS.includes(part);
    for (const tab of this.tabs) {
      const chosen = tab.dataset.part === part;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    byId("panel").toggleAttribute("role", false);
    if (this.box.hidden) {
      byId("panel").removeAttribute("aria-labelledby");
    } else {
      byId("panel").setAttribute("role", "tabpanel");
      byId("panel").setAttribute("aria-labelledby", `part-${part}`);
    }
  }
}
