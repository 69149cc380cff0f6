// One query: what was asked, what is right, and the answers of every row, one under the other, place under place.

import { element } from "./elements.js";
import { mark, number } from "./pieces.js";
import { RANK } from "./report.js";

const TARGETS = 6; // that are shown beside the question

// A picture, or what stands in its place.
function picture(thumbnails, at, name) {
  if (at < 0) return element("span", { class: "no-picture", title: `${name} ${thumbnails.why(at)}` }, name);
  const image = element("img", { alt: name, decoding: "async", draggable: "false" });
  thumbnails.show(image, at);
  return image;
}

// An entry of the gallery as its first picture, or as its text.
function entryParts({ report, thumbnails }, entry) {
  const { ids, texts, pictures } = report.entries;
  const shown = pictures[entry];
  if (!shown.length) return [element("span", { class: "text" }, texts[entry] ?? ids[entry])];
  const more = shown.length > 1 ? element("span", { class: "count" }, `+${shown.length - 1}`) : null;
  return [picture(thumbnails, shown[0], ids[entry]), more];
}

// Whether an entry is words alone; those of a gallery are all alike.
const isText = ({ entries }, entry) => entries.pictures[entry]?.length === 0;

// A picture that can be looked at more closely. `said` is where it stands.
function tile(page, query, entry, { said, right }) {
  const { ids, texts } = page.report.entries;
  const name = `${said}${right ? ", a target" : ""}: ${ids[entry]}`;
  const title = texts[entry] ? `${said}: ${ids[entry]}\n${texts[entry]}` : `${said}: ${ids[entry]}`;
  const look = { type: "button", class: "tile", title, "aria-label": name, click: () => page.look(query, entry) };
  const button = element(
    "button",
    { ...look, tabindex: "-1" },
    ...entryParts(page, entry),
    right ? element("span", { class: "right", "aria-hidden": "true" }, mark("target-mark")) : null,
  );
  return element("li", { class: right && "target" }, button);
}

function rankWords(rank, size) {
  if (rank === null) return null;
  if (rank === 0) return "target not among the answers given";
  return size === null ? `target at ${number(rank)}` : `target at ${number(rank)} of ${number(size)}`;
}

function valueWords(report, row, measure, query) {
  if (measure === null || measure === RANK) return null;
  const value = report.value(row, measure, query);
  return value === null ? null : `${measure} ${Number((100 * value).toFixed(2))}`;
}

function answerRow(page, query, row) {
  const { report } = page;
  const { name, answers, ranks } = report.rows[row];
  const targets = new Set(report.queries.targets[query]);
  const items = answers[query].map((entry, at) =>
    tile(page, query, entry, { said: `Answer ${at + 1}`, right: targets.has(entry) }),
  );
  const rank = rankWords(ranks[query], report.queries.sizes[query]);
  const found = ranks[query] > 0 && ranks[query] <= answers[query].length;
  return element(
    "section",
    { class: "row" },
    element(
      "h4",
      {},
      name,
      rank ? element("span", { class: found ? "rank found" : "rank" }, rank) : null,
      element("span", { class: "worth" }, valueWords(report, row, page.state.measure, query)),
    ),
    element("ol", { class: isText(report, answers[query][0]) ? "answers texts" : "answers" }, ...items),
  );
}

// The reference, and what is right beside it: what the words ask for can be seen.
function pair(page, query) {
  const { report, thumbnails } = page;
  const pictures = report.queries.pictures[query];
  const text = report.queries.texts[query];
  const references = pictures.map((at, number) => {
    const said = pictures.length > 1 ? `Reference ${number + 1}` : "Reference";
    return element("li", {}, picture(thumbnails, at, report.queries.names[query][number] || said));
  });
  const targets = report.queries.targets[query];
  const shown = targets.slice(0, TARGETS).map((entry) => tile(page, query, entry, { said: "Target", right: true }));
  const more = targets.length - shown.length;
  const side = (title, ...parts) => element("section", { class: "side" }, element("h4", {}, title), ...parts);
  const reference = references.length || text;
  return element(
    "div",
    { class: "pair" },
    reference
      ? side(
          "Reference",
          references.length ? element("ol", { class: "few" }, ...references) : null,
          text ? element("blockquote", {}, text) : null,
        )
      : null,
    targets.length
      ? side(
          targets.length === 1 ? "Target" : `${number(targets.length)} targets`,
          element("ol", { class: isText(report, targets[0]) ? "few answers texts" : "few answers" }, ...shown),
          more > 0 ? element("small", {}, `and ${number(more)} more`) : null,
        )
      : null,
  );
}

function chips({ report, state }, query) {
  const shown = report.facets.filter((facet) => facet.chips);
  const said = shown.flatMap(({ name, values, of }) =>
    of[query].filter((value) => values[value] !== "").map((value) => element("li", { title: name }, values[value])),
  );
  if (report.compares) {
    const outcome = report.outcome(state.measure, query);
    const [first, second] = report.runs;
    const words = { better: `${second} wins`, worse: `${first} wins`, equal: "alike" }[outcome];
    if (words) said.unshift(element("li", { class: outcome }, words));
  }
  return said.length ? element("ul", { class: "chips", "aria-label": "Kinds and labels" }, ...said) : null;
}

// page: {report, thumbnails, state, look(query, entry)}
export function card(page, query) {
  const { report, state } = page;
  const { ids, words } = report.queries;
  const rows = [...report.rows.keys()].filter((row) => report.rows[row].answers[query] && state.rows.has(row));
  const title = words[query].length ? words[query] : [ids[query]];
  return element(
    "li",
    { class: "query" },
    element(
      "div",
      { class: "asked" },
      element("h3", {}, ...title.map((line) => element("span", {}, line))),
      pair(page, query),
      chips(page, query),
      element("p", { class: "id" }, ids[query]),
    ),
    element("div", { class: "rows" }, ...rows.map((row) => answerRow(page, query, row))),
  );
}
