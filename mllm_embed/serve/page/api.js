// Talks to the server: one function a route, errors as one plain sentence, and the key where the server asks for one.

const KEY = "mllm_embed.key";

// A request that was not answered; its message can be shown as it is.
export class Refused extends Error {
  constructor(status, message, wait) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds after which the server wants to be asked again
  }
}

// The page may lie behind a proxy, under a longer path: addresses are taken relative to it.
export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

// A header carries bytes, and fetch takes only characters that are one byte: those of the key's UTF-8.
function authorization() {
  const key = sessionStorage.getItem(KEY);
  const bytes = new TextEncoder().encode(key ?? "");
  return key ? { Authorization: `Bearer ${String.fromCharCode(...bytes)}` } : {};
}

// What asks the user for a key: a function of whether the last one was wrong, whose promise holds a key, or null where
// there is none to be had.
let askForKey = async () => null;
let asking = null;

export function onKey(ask) {
  askForKey = ask;
}

// Several requests may find at once that the key is missing: the user is asked once.
async function newKey(tried) {
  if (sessionStorage.getItem(KEY) !== tried) return true;
  asking ??= askForKey(tried !== null).finally(() => (asking = null));
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  return Boolean(key);
}

async function send(path, options) {
  while (true) {
    const tried = sessionStorage.getItem(KEY);
    let response;
    try {
      response = await fetch(address(path), { ...options, headers: { ...options.headers, ...authorization() } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The server does not answer: it may have stopped, or the network is gone.");
    }
    if (response.ok) return response;
    if (response.status !== 401 || !(await newKey(tried))) throw await refusal(response);
  }
}

async function refusal(response) {
  const said = await response.json().catch(() => null);
  const message = said?.error?.message ?? said?.message ?? `The server answered ${response.status}.`;
  return new Refused(response.status, message, Number(response.headers.get("Retry-After")));
}

// What the gallery holds: {rows, model, columns, speaks, ...}.
export const gallery = async () => (await send("v1/gallery", {})).json();

// A page of it, in its own order: {total, rows: [{id, metadata, picture}]}.
export async function rows(offset, limit, filter, signal) {
  const asked = new URLSearchParams({ offset, limit });
  if (filter) asked.set("filter", JSON.stringify(filter));
  return (await send(`v1/gallery/rows?${asked}`, { signal })).json();
}

// The answers to a question: {role, hits: [{rank, id, score, metadata, picture, words}], words, ...}.
export async function search(question, signal) {
  const headers = { "Content-Type": "application/json" };
  return (await send("v1/search", { method: "POST", headers, body: JSON.stringify(question), signal })).json();
}

// A picture's bytes, for where an <img> cannot ask by itself since it sends no key.
export const picture = async (path) => (await send(path, {})).blob();
