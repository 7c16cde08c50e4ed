// What is asked, and what is shown of the answers. A second answer lies over the first; an error leaves both as they are.
import { MEANING, cards, comparison, correlations, endsAt, notes, numbers, printed, priors, simulated, verdict } from "./answer.js";
import { corner } from "./corner.js";
import { COLOURS, curves, marginal } from "./curves.js";
import { decode, named, percent, unit } from "./draws.js";
import { watch } from "./live.js";
import { $, copy, el, get, keepToken, models, save, takeToken } from "./service.js";
import { whatIf } from "./what_if.js";

const DRAWS = 10000, FIRST = 4, MOST = 6, PLOTS = 12;
const state = { models: [], model: null, answers: [], level: 0.9, chosen: [], marginals: [], frame: 0 };

// --- what is said beside the question ---

const say = (words) => { $("status").textContent = words; };
function refuse(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401 || error.status === 403) $("access").hidden = false;
  $("error").textContent = error.message;
  $("error").hidden = false;
}

// --- a question ---

function bodyOf(request, checks) {
  const common = { level: request.level, draws: DRAWS, seed: 0, checks };
  if (!request.files) return { ...request.json, ...common, include: ["draws", "predictive"] };
  const form = new FormData();
  for (const file of request.files) form.append("file", file);
  for (const [name, value] of Object.entries({ ...common, include: "draws,predictive" })) form.append(name, String(value));
  return form;
}

async function answerTo(request, checks) {
  const json = await get(`${models(state.model.name)}/answer`, { body: bodyOf(request, checks) });
  return wrapped(json, request);
}

const wrapped = (json, request) => ({ json, request, draws: decode(json.draws), grids: new Map(), still: simulated(json) ? "made" : "to make" });

/** Ask, and lay the answer over the one that is there, or put it in the place of an old one. */
async function ask(request, words, old) {
  const { model } = state;
  $("error").hidden = true;
  say(words);
  try {
    const found = await answerTo(request, false);
    if (model.name !== state.model.name) return;
    put(found, old && state.answers.includes(old) ? state.answers.indexOf(old) : undefined);
    say("");
    check(found);
  } catch (error) { say(""); refuse(error); }
}

function put(found, place = Math.min(state.answers.length, COLOURS.length - 1)) {
  state.answers[place] = found;
  if (place === 0) state.level = Object.values(found.json.parameters)[0].level;
  show();
}

/** The checks that take simulations, made after the answer is there; the same draws at equal seed. */
async function check(found) {
  if (found.still === "made" || !state.model.simulator) return;
  found.still = "being made";
  showVerdicts();
  try {
    const whole = await answerTo(found.request, true), place = state.answers.indexOf(found);
    if (place >= 0) put({ ...whole, still: "made" }, place);
  } catch (error) {
    found.still = error.message;
    showVerdicts();
  }
}

const fromFiles = (files) => ask({ files: [...files], level: state.level }, `Reading ${[...files].map((one) => one.name).join(", ")} …`);

const again = (answer) => ask({ ...answer.request, level: state.level }, `Asking again about ${answer.json.name} …`, answer);

// --- what is shown ---

function parameters() {
  const known = new Map(state.model.parameters.map((one) => [one.name, one]));
  return Object.entries(state.answers[0].json.parameters).map(([name, one]) => ({ name, unit: one.unit, derived: one.derived, label: one.label || known.get(name)?.label || name, prior: known.get(name)?.prior }));
}

const ends = (name) => state.answers.map((one) => endsAt(one, name, state.level));
const spoken = ({ name, label }) => `${label}: ${state.answers.map((one) => { const p = printed(one, name, state.level); return `${one.json.name}, median ${p.median} ${p.unit}, ${percent(state.level)} interval ${p.low} to ${p.high} ${p.unit}`; }).join("; ")}`;

function show() {
  const some = state.answers.length > 0;
  $("answer").hidden = !some;
  $("priors").hidden = some || state.model.ready === false;
  showVerdicts();
  share();
  if (!some) { say(""); return; }
  const all = parameters(), names = all.map((one) => one.name);
  state.chosen = state.chosen.filter((name) => names.includes(name));
  if (!state.chosen.length) state.chosen = names.slice(0, $("corner").clientWidth < 460 ? 3 : FIRST);
  $("level").value = Math.round(100 * state.level);
  state.marginals = all.slice(0, PLOTS).map((one) => marginal(state.answers, one.name, { ...one, whole: $("whole").checked, ends: () => ends(one.name), said: () => spoken(one) }));
  $("marginals").replaceChildren(...state.marginals.map((one) => one.box), el("p", { class: "keys" }, key("region", state.answers[0].json.name || "posterior"), state.answers[1] ? key("region second", state.answers[1].json.name) : null, key("prior", "prior"), key("edges", "ends of the interval")),
    all.length > PLOTS ? el("p", { class: "caption" }, `The first ${PLOTS} of ${all.length} parameters are drawn.`) : "");
  state.marginals.forEach((one) => one.draw());
  const lay = curves($("curves"), state.model, state.answers);
  $("whatif").hidden = !state.model.simulator;
  if (state.model.simulator) whatIf($("whatif").querySelector(".inside"), state.model, state.answers[0], lay);
  chips(all);
  $("cards").replaceChildren(...state.answers.flatMap((one, k) => [state.answers.length > 1 ? el("h3", { class: k ? "second" : "first" }, one.json.name) : "", ...cards(one.json)]), MEANING);
  showLevel();
  showFiles();
}

const key = (kind, words) => el("span", { class: `key ${kind}` }, words);

function showVerdicts() {
  $("verdicts").replaceChildren(...state.answers.map((one, k) => verdict(one.json, k, still(one), () => { state.answers.splice(k, 1); show(); $("file").focus(); })));
}

/** What is to be said of the checks by simulation, where they are not made. */
function still(found) {
  const what = "Checks by simulation were not made: whether the model reproduces these data, and whether the posterior is right at them.";
  if (found.still === "made") return null;
  if (!state.model.simulator) return el("p", { class: "next" }, `${what} This service has no simulator to make them with.`);
  if (found.still === "being made") return el("p", { class: "next busy" }, what.replace("were not made", "are still to be made"), " They are being made now …");
  return el("p", { class: "next" }, what, found.still === "to make" ? " " : ` ${found.still} `, el("button", { type: "button", onclick: () => check(found) }, "Check by simulations"));
}

/** All that depends on the level; from the draws that are here, so that it needs no service. */
function showLevel() {
  const all = parameters();
  $("percent").textContent = percent(state.level);
  $("level").setAttribute("aria-valuetext", percent(state.level));
  $("tables").replaceChildren(numbers(state.answers, all, state.level), ...notes(state.answers, all, state.level, again),
    state.answers.length > 1 ? comparison(state.answers, all) : "");
  state.marginals.forEach((one) => one.update());
  cancelAnimationFrame(state.frame);
  state.frame = requestAnimationFrame(showCorner);
}

function showCorner() {
  const shown = parameters().filter((one) => state.chosen.includes(one.name)).map((one) => ({ ...one, ends: ends(one.name) })), box = $("corner");
  if (!box.clientWidth || !shown.length) return;
  let canvas = box.querySelector("canvas");
  if (!canvas) box.replaceChildren(canvas = el("canvas", { role: "img" }), el("p", { class: "caption" }), el("div", { class: "beneath" }));
  canvas.setAttribute("aria-label", `Posterior of each pair among ${shown.map((one) => one.label).join(", ")}; the correlations are in the table below.`);
  corner(canvas, state.answers, shown, state.level);
  box.querySelector(".caption").textContent = `On the diagonal densities, their ${percent(state.level)} interval, and the prior, dashed. Below it the regions that hold 50% and ${percent(state.level)} of each pair.`;
  const open = [...box.querySelectorAll("details")].map((one) => one.open), made = state.answers.map((one) => correlations(one, shown));
  made.forEach((one, k) => { one.open = Boolean(open[k]); });
  box.querySelector(".beneath").replaceChildren(...made);
}

function chips(all) {
  const set = document.querySelector(".chips"), boxes = all.map(({ name, label }) => {
    const input = el("input", { type: "checkbox", value: name });
    input.checked = state.chosen.includes(name);
    input.addEventListener("change", () => {
      state.chosen = boxes.filter((one) => one.input.checked).map((one) => one.input.value);
      limit();
      showCorner();
    });
    return { input, label: el("label", {}, input, el("span", {}, label)) };
  });
  const limit = () => boxes.forEach(({ input }) => { input.disabled = input.checked ? state.chosen.length === 1 : state.chosen.length >= MOST; });
  set.replaceChildren(el("legend", {}, "parameters"), ...boxes.map((one) => one.label));
  limit();
}

function showFiles() {
  const kinds = { h5: "HDF5", csv: "CSV", ecsv: "ECSV with units", arrow: "Arrow", nc: "netCDF" };
  const rows = state.answers.map(({ json }) => el("p", { class: "downloads" }, el("span", {}, `Draws of ${json.name}: `), Object.entries(kinds).map(([end, words]) =>
    el("button", { type: "button", onclick: () => save(`${models(state.model.name)}/answers/${encodeURIComponent(json.id)}/draws.${end}`, `${json.name}_draws.${end}`).catch(refuse) }, words))));
  const link = el("button", { type: "button", onclick: async () => { said.textContent = (await copy(location.href)) ? "Copied: whoever may use this service sees the same." : location.href; } }, "Copy the link to this");
  const said = el("span", { class: "caption", role: "status" });
  $("files").replaceChildren(el("p", {}, link, " ", said), ...rows);
}

function share() {
  const ids = state.answers.map((one) => encodeURIComponent(one.json.id)).join(",");
  history.replaceState(null, "", `#/${encodeURIComponent(state.model.name)}${ids ? `/${ids}` : ""}`);
  document.title = state.answers.length ? `${state.answers.map((one) => one.json.name).join(", ")} · ${state.model.name}` : `${state.model.name} · sciinf`;
}

// --- which model ---

let unwatch = null;

function choose(model) {
  unwatch?.();
  Object.assign(state, { model, answers: [], chosen: [] });
  $("error").hidden = true;
  describe();
  show();
  unwatch = watch(model.name, () => state.model.ready !== false, renew);
}

/** The model as it is now, while its run goes on; answers stay. */
async function renew() {
  const before = state.model;
  try {
    const now = await get(models(before.name));
    if (state.model.name !== before.name) return;
    state.models = state.models.map((one) => (one.name === now.name ? now : one));
    state.model = now;
    describe();
    if (!state.answers.length) show();
  } catch { /* it is asked again at the next event */ }
}

function describe() {
  const model = state.model, ready = model.ready !== false, found = model.calibration;
  $("title").textContent = model.name;
  const parts = ready ? [`${model.parameters.length} parameters: ${model.parameters.slice(0, 6).map((one) => named(one.label || one.name, one.unit)).join(", ")}${model.parameters.length > 6 ? ", …" : ""}`,
    model.simulations ? `${model.simulations.toLocaleString("en-US")} simulations` : "", found ? `calibration: ${found.state}` : "", model.scope] : [model.reason || "This run is not trained yet; it can be asked when it is."];
  $("about").textContent = parts.filter(Boolean).join(" · ");
  $("ask").hidden = false;
  $("drop").hidden = !ready;
  if (!ready) return;
  $("priors").replaceChildren(...priors(model));
  const seen = model.observables.map((one) => `${one.label || one.name}, ${one.shape.length ? `${one.shape.join(" × ")} values` : "one value"}${one.unit ? ` in ${unit(one.unit)}` : ""}`);
  $("wanted").textContent = `It reads ${seen.join("; ")}. CSV, ECSV, FITS, HDF5, netCDF, npz, npy or text; several files at once are one observation.`;
  $("own").hidden = !model.observations?.length;
  $("observations").replaceChildren(...(model.observations || []).slice(0, 12).flatMap((name) => [el("button", { type: "button", onclick: () => ask({ json: { observation: name }, level: state.level }, `Asking about ${name} …`) }, name), " "]));
}

// --- files that are dropped or chosen ---

function listen() {
  let depth = 0;
  const over = (on) => document.body.classList.toggle("over", on);
  addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; over(true); });
  addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) over(false); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(false);
    if (event.dataTransfer.files.length && state.model && !$("drop").hidden) fromFiles(event.dataTransfer.files);
  });
  $("file").addEventListener("change", () => { if ($("file").files.length) fromFiles($("file").files); $("file").value = ""; });
  $("level").addEventListener("input", () => { state.level = $("level").value / 100; showLevel(); });
  $("whole").addEventListener("change", show);
  $("model").addEventListener("change", () => choose(state.models[$("model").selectedIndex]));
  $("access").addEventListener("submit", (event) => { event.preventDefault(); keepToken($("token").value); $("access").hidden = true; begin(); });
  addEventListener("hashchange", () => { takeToken(); begin(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.answers.length && show());
  let wide = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== wide && state.answers.length) { wide = innerWidth; showCorner(); } });
}

async function begin() {
  const [, name, ids] = /^#\/([^/]+)(?:\/(.+))?$/.exec(location.hash) || [];
  try {
    state.models = (await get("models")).models;
    if (!state.models.length) throw new Error("This service has no model.");
    $("model").replaceChildren(...state.models.map((one) => el("option", {}, one.name)));
    $("choose").hidden = state.models.length < 2;
    const at = Math.max(0, state.models.findIndex((one) => one.name === decodeURIComponent(name || "")));
    $("model").selectedIndex = at;
    choose(state.models[at]);
    for (const [k, id] of (ids || "").split(",").filter(Boolean).slice(0, COLOURS.length).entries()) {
      const json = await get(`${models(state.model.name)}/answers/${id}`);
      put(wrapped(json, { json: { x: json.observation, name: json.name }, level: Object.values(json.parameters)[0].level }), k);
    }
  } catch (error) {
    $("ask").hidden = false;
    $("drop").hidden = !state.model || state.model.ready === false;
    if (!state.model) $("about").textContent = "";
    refuse(error);
  }
}

takeToken();
listen();
begin();
