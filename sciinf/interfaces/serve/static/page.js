// What is asked, and what is shown of the answers. A second answer lies over the first; an error leaves both as they are.
import { asked, cards, comparison, correlations, endsAt, meaning, notes, numbers, printed, priors, verdict } from "./answer.js";
import { corner } from "./corner.js";
import { COLOURS, curves, marginal } from "./curves.js";
import { isDiscrete, probabilities, saidGiven } from "./discrete.js";
import { decode, interval, named, percent, pictured, unit } from "./draws.js";
import { watch } from "./live.js";
import { $, copy, el, get, hasToken, keepToken, models, save, takeToken } from "./service.js";
import { whatIf } from "./what_if.js";

const FIRST = 4, MOST = 6, PLOTS = 12;
const state = { models: [], model: null, answers: [], several: [], level: 0.9, chosen: [], marginals: [], frame: 0, draws: 10000 };

// --- what is said beside the question ---

const say = (words) => { $("status").textContent = words; };
function refuse(error) {
  if (error.name === "AbortError") return;
  $("access").hidden = error.status !== 401;
  if (error.status === 401 && !hasToken()) return; // the form says what to do
  $("error").textContent = error.message;
  $("error").hidden = false;
}

// --- a question ---

function bodyOf(request, checks) {
  const common = { level: request.level, draws: request.draws || state.draws, seed: 0, checks, ...(request.name ? { name: request.name } : {}) };
  if (!request.files) return { ...request.json, ...common, include: ["draws", "predictive"] };
  const form = new FormData();
  for (const file of request.files) form.append("file", file);
  for (const [name, value] of Object.entries({ ...common, include: "draws,predictive" })) form.append(name, String(value));
  return form;
}

/** The answers, one or more; with fewer draws of each where the service gives no more at once. */
async function answersTo(request, checks) {
  const draws = request.draws || state.draws;
  try {
    const json = await get(`${models(state.model.name)}/answer`, { body: bodyOf(request, checks) });
    return json.answers ? json.answers.map((one, k) => wrapped(one, ofOne(request, one, k, json.answers.length))) : [wrapped(json, request)];
  } catch (error) {
    const [, asked, most] = (error.status === 413 && /([\d,]+) draws .* at most ([\d,]+)/.exec(error.message)) || [];
    if (!most) throw error;
    const [all, some] = [asked, most].map((one) => Number(one.replaceAll(",", ""))), fewer = Math.floor((some * draws) / all);
    if (!(fewer >= 1 && fewer < draws)) throw error;
    if (all === draws) state.draws = fewer;
    return answersTo({ ...request, draws: fewer }, checks);
  }
}

/** What asks about one of several observations by itself: each was in a file of its own. */
function ofOne({ files, ...common }, { name, observation }, k, count) {
  return { ...common, name, ...(files?.length === count ? { files: [files[k]] } : { json: { x: observation } }) };
}

function wrapped(json, request) {
  const draws = decode(json.draws);
  return { json, request, draws, pictured: pictured(draws), grids: new Map(), still: json.checked ? "made" : "to make" };
}

/** Ask, and lay the answer over the one that is there, or put it in the place of an old one. */
async function ask(request, words, old) {
  const { model } = state;
  $("error").hidden = true;
  say(words);
  try {
    const found = await answersTo(request, false);
    if (model.name !== state.model.name) return;
    if (found.length > 1) Object.assign(state, { several: found, answers: [] });
    const place = old && state.answers.includes(old) ? state.answers.indexOf(old) : undefined;
    found.slice(0, COLOURS.length).forEach((one) => put(one, place, old));
    say("");
    found.slice(0, COLOURS.length).forEach(check);
  } catch (error) { say(""); refuse(error); }
}

function put(found, place = Math.min(state.answers.length, COLOURS.length - 1), old = undefined) {
  const same = state.answers.some((one, k) => k !== place && one.json.name === found.json.name);
  if (same) found.json.name += " (2)"; // two answers under one name could not be told apart
  state.answers[place] = found;
  state.several = state.several.map((one) => (one === old ? found : one));
  if (place === 0 && !old) state.level = Object.values(found.json.parameters)[0].level;
  show();
}

/** The checks that take simulations, made after the answer is there; the same draws at equal seed. */
async function check(found) {
  if (["made", "being made"].includes(found.still) || !state.model.simulator) return;
  found.still = "being made";
  showVerdicts();
  try {
    const [whole] = await answersTo(found.request, true), place = state.answers.indexOf(found), made = { ...whole, still: "made" };
    if (place >= 0) put(made, place, found);
    else { state.several = state.several.map((one) => (one === found ? made : one)); showOthers(); }
  } catch (error) {
    found.still = error.message;
    showVerdicts();
  }
}

const level = () => (state.answers.length ? asked(state.answers[0]) : state.level); // of all answers the same, wherever the slider is

const fromFiles = (files) => ask({ files: [...files], level: level() }, `Reading ${[...files].map((one) => one.name).join(", ")} …`);

const again = (answer) => ask({ ...answer.request, level: state.level }, `Asking again about ${answer.json.name} …`, answer);

// --- what is shown ---

function parameters() {
  const known = new Map(state.model.parameters.map((one) => [one.name, one]));
  return Object.entries(state.answers[0].json.parameters).map(([name, { unit: of, derived, label }]) =>
    ({ name, unit: of, derived, label: label || known.get(name)?.label || name, prior: known.get(name)?.prior }));
}

const discrete = () => parameters().filter(({ name }) => isDiscrete(state.answers[0].json.parameters[name]));
const continuous = () => parameters().filter(({ name }) => !isDiscrete(state.answers[0].json.parameters[name]));
/** Those that exist in some draw of every answer, and those that are in the pairs of every answer. */
const existing = (all) => all.filter(({ name }) => state.answers.every((one) => one.json.parameters[name].exists !== 0));
const paired = (all) => all.filter(({ name }) => state.answers.every((one) => one.pictured.names.includes(name)));

const ends = (name) => state.answers.map((one) => endsAt(one, name, state.level));

/** A parameter's numbers in words, for who does not see its curve. */
function spoken({ name, label }) {
  const each = state.answers.map((one) => {
    const { median, range, unit: of } = printed(one, name, state.level);
    return `${one.json.name}, median ${median} ${of}, ${percent(state.level)} interval ${range} ${of}`;
  });
  return `${label}: ${each.join("; ")}`;
}

function show() {
  const some = state.answers.length > 0;
  $("answer").hidden = !some;
  $("priors").hidden = some || state.model.ready === false;
  showVerdicts();
  showOthers();
  share();
  if (!some) { say(""); return; }
  const all = continuous(), names = paired(all).map((one) => one.name), several = state.answers.length > 1;
  state.chosen = state.chosen.filter((name) => names.includes(name));
  if (!state.chosen.length) state.chosen = names.slice(0, $("corner").clientWidth < 460 ? 3 : FIRST);
  $("level").value = Math.round(100 * state.level);
  showMarginals(existing(all), all.filter((one) => !existing(all).includes(one)));
  const lay = curves($("curves"), state.model, state.answers), inside = $("whatif").querySelector(".inside");
  $("whatif").hidden = !state.model.simulator;
  if (state.model.simulator) whatIf(inside, state.model, state.answers[0], lay);
  chips(paired(all));
  const head = (one, k) => (several ? [el("h3", { class: k ? "second" : "first" }, one.json.name)] : []);
  $("cards").replaceChildren(...state.answers.flatMap((one, k) => [...head(one, k), ...cards(one.json)]), meaning());
  showLevel();
  showFiles();
}

function showMarginals(all, absent) {
  const whole = $("whole").checked, key = ([kind, words]) => el("span", { class: `key ${kind}` }, words);
  state.marginals = all.slice(0, PLOTS).map((one) =>
    marginal(state.answers, one.name, { ...one, whole, ends: () => ends(one.name), said: () => spoken(one) }));
  const keys = [...state.answers.map((one, k) => [k ? "region second" : "region", one.json.name]), ["prior", "prior"], ["edges", "ends of the interval"]];
  const more = all.length > PLOTS ? el("p", { class: "caption" }, `The first ${PLOTS} of ${all.length} parameters are drawn.`) : "";
  const none = absent.length ? el("p", { class: "caption" }, `Not drawn, for they exist in no draw of an answer: ${absent.map((one) => one.label).join(", ")}.`) : "";
  $("marginals").replaceChildren(...state.marginals.map((one) => one.box), el("p", { class: "keys" }, keys.map(key)), more, none);
  state.marginals.forEach((one) => one.draw());
}

function showVerdicts() {
  const away = (k) => { state.answers.splice(k, 1); show(); $("file").focus(); };
  $("verdicts").replaceChildren(...state.answers.map((one, k) => verdict(one.json, k, still(one), () => away(k))));
}

/** The answers of files that came together and are not shown now; each can be. */
function showOthers() {
  const others = state.several.filter((one) => !state.answers.includes(one)), full = state.answers.length === COLOURS.length;
  const words = `${state.several.length} observations came at once, and two are compared at a time. ${full ? "Show in place of the second:" : "Show:"} `;
  const take = (one) => { put(one); check(one); $("others").querySelector("button")?.focus(); };
  const button = (one) => el("button", { type: "button", onclick: () => take(one) }, one.json.name);
  $("others").hidden = !others.length;
  $("others").replaceChildren(...(others.length ? [words, ...others.flatMap((one) => [button(one), " "])] : []));
}

/** What is to be said of the checks by simulation, where they are not made. */
function still(found) {
  const what = "whether the model reproduces these data, and whether the posterior is right at them.";
  if (found.still === "made") return null;
  const soon = `Checks by simulation are still to be made: ${what} They are being made now …`;
  if (found.still === "being made") return el("p", { class: "next busy" }, soon);
  const words = `Checks by simulation were not made: ${what}`;
  if (!state.model.simulator) return el("p", { class: "next" }, `${words} This service has no simulator to make them with.`);
  const button = el("button", { type: "button", onclick: () => check(found) }, "Check at this observation");
  return el("p", { class: "next" }, words, found.still === "to make" ? " " : ` ${found.still} `, button);
}

/** All that depends on the level; from the draws that are here, so that it needs no service. */
function showLevel() {
  const all = continuous(), several = state.answers.length > 1;
  $("percent").textContent = percent(state.level);
  $("level").setAttribute("aria-valuetext", percent(state.level));
  $("tables").replaceChildren(...probabilities(state.answers, discrete()), all.length ? numbers(state.answers, all, state.level) : "",
    ...notes(state.answers, all, state.level, again), several ? comparison(state.answers, parameters()) : "");
  state.marginals.forEach((one) => one.update());
  cancelAnimationFrame(state.frame);
  state.frame = requestAnimationFrame(showCorner);
}

/** Which draws the corner shows, where they are those of the most probable model or number. */
function whichDraws() {
  const of = state.answers.filter(({ pictured: { given } }) => Object.keys(given).length);
  return of.map(({ json, draws, pictured: { given, count } }) => `Drawn of ${json.name}: where ${saidGiven(given)}, which is most probable, ` +
    `${count.toLocaleString("en-US")} of ${draws.count.toLocaleString("en-US")} draws. `).join("");
}

const endsInPairs = (name) => state.answers.map((one) =>
  (one.pictured === one.draws ? endsAt(one, name, state.level) : interval(one.pictured, one.pictured.names.indexOf(name), state.level)));

function showCorner() {
  const shown = paired(continuous()).filter((one) => state.chosen.includes(one.name)).map((one) => ({ ...one, ends: endsInPairs(one.name) }));
  const box = $("corner"), at = percent(state.level);
  if (!shown.length) { box.replaceChildren(el("p", { class: "caption" }, `${whichDraws()}No parameter is left that pairs could be drawn of.`)); return; }
  if (!box.clientWidth) return;
  if (!box.querySelector("canvas")) box.replaceChildren();
  if (!box.firstChild) box.append(el("canvas", { role: "img" }), el("p", { class: "caption" }), el("div", {}));
  const [canvas, caption, beneath] = box.children, open = [...beneath.children].map((one) => one.open);
  const names = shown.map((one) => one.label).join(", ");
  canvas.setAttribute("aria-label", `Posterior of each pair among ${names}; the correlations are in the table below.`);
  corner(canvas, state.answers, shown, state.level);
  caption.textContent = `${whichDraws()}On the diagonal densities, their ${at} interval, and the prior, dashed. Below it the regions that hold 50% and ${at} ` +
    "of each pair.";
  beneath.replaceChildren(...state.answers.map((one) => correlations(one, shown)));
  [...beneath.children].forEach((one, k) => { one.open = Boolean(open[k]); });
}

/** Which parameters the corner shows. */
function chips(all) {
  const boxes = all.map(({ name, label }) => {
    const input = el("input", { type: "checkbox", value: name });
    input.checked = state.chosen.includes(name);
    input.addEventListener("change", () => {
      state.chosen = boxes.filter((one) => one.input.checked).map((one) => one.input.value);
      limit();
      showCorner();
    });
    return { input, label: el("label", {}, input, el("span", {}, label)) };
  });
  const full = (input) => (input.checked ? state.chosen.length === 1 : state.chosen.length >= MOST);
  const limit = () => boxes.forEach(({ input }) => { input.disabled = full(input); });
  document.querySelector(".chips").replaceChildren(el("legend", {}, "parameters"), ...boxes.map((one) => one.label));
  limit();
}

function showFiles() {
  const kinds = { h5: "HDF5", csv: "CSV", ecsv: "ECSV", arrow: "Arrow", nc: "netCDF" };
  const said = el("span", { class: "caption", role: "status" });
  const rows = state.answers.map(({ json: { id, name } }) => {
    const from = `${models(state.model.name)}/answers/${encodeURIComponent(id)}/draws`;
    const keep = (end) => save(`${from}.${end}`, `${name}_draws.${end}`).catch(refuse);
    const button = ([end, words]) => el("button", { type: "button", onclick: () => keep(end) }, words);
    return el("p", { class: "downloads" }, el("span", {}, `Draws of ${name}: `), Object.entries(kinds).map(button));
  });
  const take = async () => { said.textContent = (await copy(location.href)) ? "Copied: whoever may use this service sees the same." : location.href; };
  $("files").replaceChildren(el("p", {}, el("button", { type: "button", onclick: take }, "Copy the link to this"), " ", said), ...rows);
}

/** The address of what is shown, for others. */
function share() {
  const [ids, names] = [state.answers.map((one) => encodeURIComponent(one.json.id)).join(","), state.answers.map((one) => one.json.name).join(", ")];
  history.replaceState(null, "", `#/${encodeURIComponent(state.model.name)}${ids ? `/${ids}` : ""}`);
  document.title = names ? `${names} · ${state.model.name}` : `${state.model.name} · sciinf`;
}

// --- which model ---

let unwatch = null;

function choose(model) {
  unwatch?.();
  Object.assign(state, { model, answers: [], several: [], chosen: [] });
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

function about(model) {
  if (model.ready === false) return model.reason || "This run is not trained yet; it can be asked when it is.";
  const names = model.parameters.slice(0, 6).map((one) => named(one.label || one.name, one.unit));
  const more = model.parameters.length > 6 ? ", …" : "";
  return [`${model.parameters.length} parameters: ${names.join(", ")}${more}`, `${model.simulations.toLocaleString("en-US")} simulations`,
    `calibration of the network: ${model.calibration.state}`, model.scope].filter(Boolean).join(" · ");
}

/** What the model is, and what it reads. */
function describe() {
  const model = state.model, ready = model.ready !== false;
  $("title").textContent = model.name;
  $("about").textContent = about(model);
  $("ask").hidden = false;
  $("drop").hidden = !ready;
  if (!ready) return;
  $("priors").replaceChildren(...priors(model));
  const size = (one) => (one.shape.length ? `${one.shape.join(" × ")} values` : "one value");
  const seen = model.observables.map((one) => `${one.label || one.name}, ${size(one)}${one.unit ? ` in ${unit(one.unit)}` : ""}`);
  const kinds = "CSV, ECSV, FITS, HDF5, netCDF, npz, npy or text. Several files at once are one observation each, " +
    "or one together where none holds a whole one.";
  $("wanted").textContent = `It reads ${seen.join("; ")}. ${kinds}`;
  $("own").hidden = !model.observations.length;
  const own = (name) => ask({ json: { observation: name }, level: level() }, `Asking about ${name} …`);
  const buttons = model.observations.slice(0, 12).flatMap((name) => [el("button", { type: "button", onclick: () => own(name) }, name), " "]);
  $("observations").replaceChildren(...buttons);
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
