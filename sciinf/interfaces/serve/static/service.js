// Requests to the service, with its token; and elements of the page, whose text is never taken for markup.

export const $ = (id) => document.getElementById(id);

/** An element with attributes, listeners ("onclick") and content: text or other elements. */
export function el(kind, attributes = {}, ...content) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...content.flat().filter((one) => one !== null && one !== undefined));
  return made;
}

/** An element of a drawing. */
export function svg(kind, attributes, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

/** A table that scrolls by itself where it is wide.
 * @param head headings; @param rows cells, text or elements, of which the first heads its row; all others are numbers,
 *   unless their column is among `words`. */
export function table(label, head, rows, { caption = "", words = [] } = {}) {
  const kind = (k) => (k && !words.includes(k) ? "n" : undefined);
  const made = rows.map((cells) => el("tr", {}, cells.map((one, k) => el(k ? "td" : "th", k ? { class: kind(k) } : { scope: "row" }, one))));
  return framed(label, head.map((one, k) => el("th", { scope: "col", class: kind(k) }, one)), made, caption);
}

/** The same of rows that are elements. */
export function framed(label, head, rows, caption = "") {
  const parts = [caption && el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)];
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, el("table", {}, parts.filter(Boolean)));
}

/** What the service says against a request, in its own sentence. */
export class Refused extends Error {
  constructor(words, status) { super(words); this.status = status; }
}

const KEY = "sciinf token";
const AWAY = "The service does not answer. What is shown stays, and works without it; try again when it is there.";

/** The token of a link, `#token=...` or `#token=.../MODEL/ID`, is kept for this tab and taken out of the address. */
export function takeToken() {
  const [, token, rest] = /^#token=([^/]+)(.*)$/.exec(location.hash) || [];
  if (!token) return;
  keepToken(decodeURIComponent(token));
  history.replaceState(null, "", location.pathname + location.search + (rest && `#${rest}`));
}

export const hasToken = () => sessionStorage.getItem(KEY) !== null;
export const keepToken = (token) => sessionStorage.setItem(KEY, token);

/** A request; what comes is returned as it is.
 * @throws {Refused} with the service's sentence. */
export async function request(path, { body, signal } = {}) {
  const headers = {}, token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  const json = body !== undefined && !(body instanceof FormData);
  if (json) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, signal, body: json ? JSON.stringify(body) : body });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(AWAY, 0);
  }
  if (response.ok) return response;
  let words = "";
  try { words = (await response.json()).error || ""; } catch { /* no sentence came */ }
  throw new Refused(words || `The service answered with status ${response.status}.`, response.status);
}

export const get = async (path, options) => (await request(path, options)).json();

/** A file of the service, saved by the browser. */
export async function save(path, name) {
  const link = el("a", { download: name, href: URL.createObjectURL(await (await request(path)).blob()) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Text into the clipboard; false where the browser does not allow it. */
export async function copy(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { return false; }
}

export const models = (name) => `models/${encodeURIComponent(name)}`;
