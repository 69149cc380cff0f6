// Filters, made of what the gallery's columns hold: boxes for texts, a range for numbers, yes or no.

import { byId, element } from "./elements.js";

const AT_ONCE = 8; // values of a column that are shown without asking for the rest

// Check boxes, the most frequent value first: an object of JavaScript's has names that are numbers before all others.
function textColumn(name, column, changed) {
  const values = Object.entries(column.values).sort(([, one], [, other]) => other - one);
  const boxes = values.map(([value, count]) => {
    const box = element("input", { type: "checkbox", change: changed });
    const many = element("small", {}, count.toLocaleString("en"));
    const label = element("label", {}, box, element("span", { title: value }, value), many);
    return { value, box, label };
  });
  const labels = boxes.map(({ label }) => label);
  const rest = labels.slice(AT_ONCE);
  const all = element("details", {}, element("summary", {}, `${rest.length} more`), ...rest);
  return {
    parts: [...labels.slice(0, AT_ONCE), rest.length ? all : null],
    read: () => {
      const values = boxes.filter(({ box }) => box.checked).map(({ value }) => value);
      return values.length ? values : null;
    },
    write: (values) => boxes.forEach(({ value, box }) => (box.checked = Boolean(values?.includes(value)))),
  };
}

function numberColumn(name, column, changed) {
  const field = (label, bound) => {
    const said = `${name}, ${label}`;
    return element("input", { type: "number", step: "any", placeholder: bound, "aria-label": said, input: changed });
  };
  const least = field("at least", column.least);
  const most = field("at most", column.most);
  return {
    parts: [element("div", { class: "range" }, least, element("span", { "aria-hidden": "true" }, "to"), most)],
    read: () => {
      const range = {};
      if (least.value !== "") range[">="] = least.valueAsNumber;
      if (most.value !== "") range["<="] = most.valueAsNumber;
      return Object.keys(range).length ? range : null;
    },
    write: (range) => {
      least.value = range?.[">="] ?? "";
      most.value = range?.["<="] ?? "";
    },
  };
}

function truthColumn(name, column, changed) {
  const option = (value, label) => {
    const count = column.values?.[value];
    return element("option", { value }, count == null ? label : `${label} (${count.toLocaleString("en")})`);
  };
  const choice = element(
    "select",
    { "aria-label": name, change: changed },
    element("option", { value: "" }, "any"),
    option("true", "yes"),
    option("false", "no"),
  );
  return {
    parts: [choice],
    read: () => (choice.value ? choice.value === "true" : null),
    write: (value) => (choice.value = value == null ? "" : String(value)),
  };
}

const KINDS = { text: textColumn, number: numberColumn, truth: truthColumn };

// Whether a column tells pictures apart into groups: names of which each is had by one picture do not.
function groups({ kind, values }) {
  if (kind !== "text") return true;
  const counts = Object.values(values ?? {});
  return counts.length > 0 && (counts.length <= AT_ONCE || counts.some((count) => count > 1));
}

export class Filters {
  constructor(columns, changed) {
    this.box = byId("filters");
    this.fields = new Map();
    for (const [name, column] of Object.entries(columns)) {
      if (KINDS[column.kind] && groups(column)) this.fields.set(name, KINDS[column.kind](name, column, changed));
    }
    this.box.hidden = this.fields.size === 0;
    this.clear = element("button", { type: "button", class: "plain", hidden: true }, "Clear filters");
    this.clear.addEventListener("click", () => {
      this.write(null);
      changed();
    });
    this.#draw();
  }

  #draw() {
    const wide = matchMedia("(min-width: 60rem)");
    const sets = [...this.fields].map(([name, { parts }]) =>
      element("fieldset", {}, element("legend", {}, name), ...parts),
    );
    this.summary = element("summary", {}, "Filters");
    const whole = element("details", { open: wide.matches }, this.summary, ...sets, this.clear);
    wide.addEventListener("change", () => (whole.open = wide.matches));
    this.box.replaceChildren(whole);
  }

  // The filter as the server takes it, {"price": {"<=": 40}, "color": ["red", "blue"]}; null where nothing is chosen.
  read() {
    const read = [...this.fields].map(([name, field]) => [name, field.read()]);
    const chosen = read.filter(([, value]) => value !== null);
    this.clear.hidden = chosen.length === 0;
    this.summary.textContent = chosen.length ? `Filters (${chosen.length})` : "Filters";
    return chosen.length ? Object.fromEntries(chosen) : null;
  }

  write(filter) {
    const chosen = new Map(Object.entries(filter ?? {}));
    for (const [name, field] of this.fields) field.write(chosen.get(name));
    this.read();
  }
}
