// An answer in words and tables: its verdict, its numbers, its checks. A light is never greener than what is behind it.
import { compared, correlation, interval, number, percent, unit } from "./draws.js";
import { el } from "./service.js";

const LIGHTS = { good: "green", caution: "amber", alarm: "red", unknown: "grey" };
const STATES = { passed: "green", "cannot tell": "amber", "not passed": "red", "not checked": "amber" };
const TRUST = { good: "green", unusual: "amber", alarm: "red", unknown: "amber" };
const CHECKS = { good: "green", caution: "amber", alarm: "red", unknown: "amber" };
const SYMBOLS = { green: "✓", amber: "!", red: "✕", grey: "–" };
const WORDS = { green: "Good", amber: "With care", red: "Do not rely", grey: "Not checked" };
const STATE_WORDS = { passed: "Passed", "cannot tell": "Cannot tell", "not passed": "Not passed", "not checked": "Not checked" };
const BY_SIMULATION = ["predictive", "residuals", "local check", "likelihood", "strange data"];
const NO_LIKELIHOOD = /no likelihood/;

export const simulated = (json) => json.checks.some((one) => BY_SIMULATION.includes(one.name));

/** The worst colour of lights and checks; "" where none is bad and something was not looked at. */
export function colourOf(json) {
  const lights = json.lights.filter((one) => !NO_LIKELIHOOD.test(one.text)).map((one) => LIGHTS[one.level] || "amber");
  const found = [LIGHTS[json.verdict] || "amber", ...lights, TRUST[json.trust.level] || "amber", ...json.checks.map((one) => CHECKS[one.level] || "amber")];
  return ["red", "amber", "grey", "green"].find((one) => found.includes(one)).replace("grey", "");
}

const symbol = (colour) => el("span", { class: "symbol", "aria-hidden": "true" }, SYMBOLS[colour]);
const meaning = { green: "passed: ", amber: "with care: ", red: "not passed: ", grey: "not checked: " };

/** The verdict on an answer.
 * @param at which answer it is; @param still what is said of checks that are still to be made. */
export function verdict(json, at, still, remove) {
  const lights = json.lights.map((one) => {
    const colour = LIGHTS[one.level] || "amber";
    return el("li", { class: colour }, symbol(colour), el("span", {}, el("span", { class: "unseen" }, meaning[colour]), one.text));
  });
  const close = el("button", { class: "close", type: "button", "aria-label": `Take away ${json.name}`, onclick: remove }, "Take away");
  const name = el("p", { class: `whose ${at ? "second" : "first"}` }, el("b", {}, json.name || "observation"), el("span", { class: "unit" }, [`${json.posterior} posterior`, ...(json.read || [])].join(" · ")), close);
  return el("section", { class: `verdict ${colourOf(json)}`, "aria-label": `Verdict on ${json.name}` }, name,
    el("p", { class: "headline" }, json.sentence), still, el("ul", { class: "lights" }, lights));
}

/** What an estimate's interval is at a level: the service's own at the level asked, of the draws at others. */
export function endsAt(answer, name, level) {
  const one = answer.json.parameters[name];
  return Math.abs(level - one.level) < 1e-9 ? one.interval : interval(answer.draws, answer.draws.names.indexOf(name), level);
}

export function printed(answer, name, level) {
  const one = answer.json.parameters[name], [low, high] = endsAt(answer, name, level), [below, above] = [one.median - low, high - one.median];
  const widths = [below, above].filter((width) => width > 0);
  return { median: number(one.median, widths.length ? Math.min(...widths) : 0), low: number(low, below), high: number(high, above), unit: unit(one.unit) };
}

function bar(answer, name, level, prior, k) {
  const svg = (kind, attributes) => { const made = document.createElementNS("http://www.w3.org/2000/svg", kind); Object.entries(attributes).forEach(([a, v]) => made.setAttribute(a, v)); return made; };
  const at = (value) => 100 * Math.min(Math.max((value - prior.low) / (prior.high - prior.low), 0), 1);
  const [low, high] = endsAt(answer, name, level).map(at), wide = Math.max(high - low, 0.8);
  const made = svg("svg", { class: `bar ${k ? "second" : ""}`, viewBox: "-1 0 102 14", preserveAspectRatio: "none", "aria-hidden": "true" });
  made.append(svg("path", { class: "track", d: "M0 6H100" }), svg("path", { class: "inner", d: `M${low} 2h${wide}v8h${-wide}z` }), svg("path", { class: "middle", d: `M${at(answer.json.parameters[name].median)} 1V11` }));
  return made;
}

function table(caption, head, rows, label) {
  const heads = head.map((one, k) => el("th", { scope: "col", class: k ? "n" : undefined }, one));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
}

/** Medians and intervals of all parameters at a level, within their priors. */
export function numbers(answers, parameters, level) {
  const rows = parameters.flatMap(({ name, label, prior, derived }) => answers.map((answer, k) => {
    const { median, low, high, unit: of } = printed(answer, name, level), shown = of ? [" ", el("span", { class: "unit" }, of)] : [];
    const own = label === name ? null : el("code", { class: "own" }, name);
    const head = k ? null : el("th", { scope: "row", rowspan: answers.length > 1 ? answers.length : undefined }, label, derived ? " (derived)" : "", own && " ", own);
    const mark = answers.length > 1 && el("span", { class: `mark ${k ? "second" : "first"}`, title: answer.json.name }, el("span", { class: "unseen" }, `${answer.json.name}: `));
    return el("tr", {}, head, el("td", { class: "n" }, mark || null, median, shown), el("td", { class: "n" }, `${low} to ${high}`, of ? [" ", el("span", { class: "unit" }, of)] : []),
      el("td", { class: "within" }, prior ? bar(answer, name, level, prior, k) : null));
  }));
  const caption = `These data, this model and this prior give a value inside its interval a probability of ${percent(level)}.`;
  return table(caption, ["parameter", "median", `${percent(level)} interval`, "within the prior"], rows, "Medians and intervals");
}

/** How two answers differ: shift and overlap of each parameter. */
export function comparison(answers, parameters) {
  const [first, second] = answers, of = (answer, name) => answer.draws.names.indexOf(name);
  const rows = parameters.map(({ name, label }) => {
    const { overlap, shift } = compared(first.draws, of(first, name), second.draws, of(second, name));
    return el("tr", {}, el("th", { scope: "row" }, label), el("td", { class: "n" }, `${shift >= 0 ? "+" : "−"}${Math.abs(shift).toFixed(1)} sd`), el("td", { class: "n" }, `${Math.round(100 * overlap)}%`));
  });
  const caption = `From ${first.json.name} to ${second.json.name}. Shift: difference of the means over the root of the sum of both variances. Overlap: what the two densities have in common.`;
  return table(caption, ["parameter", "shift", "overlap"], rows, "Comparison of the two answers");
}

/** What fresh simulations say of the intervals, and which level the words are about. */
export function notes(answers, parameters, level, again) {
  const asked = (answer) => Object.values(answer.json.parameters)[0].level, said = [];
  const off = answers.filter((one) => Math.abs(level - asked(one)) > 1e-9), moved = (one) => one?.corrected && one.corrected.moved > one.corrected.chance;
  for (const answer of answers.filter((one) => !off.includes(one))) {
    const of = parameters.map(({ name, label }) => [label, answer.json.parameters[name]]).filter(([, one]) => moved(one)).map(([label, one]) => {
      const [low, high] = one.corrected.interval, width = (high - low) / 2;
      return `${label} ${number(low, width)} to ${number(high, width)}${one.unit ? ` ${unit(one.unit)}` : ""}${one.corrected.local ? " (for data like these)" : ""}`;
    });
    if (of.length) said.push(el("p", { class: "moved" }, `${answer.json.name}: intervals that held ${percent(level)} on fresh simulations are others than those of the draws: ${of.join(", ")}.`));
  }
  if (off.length) {
    const any = off.some((one) => Object.values(one.json.parameters).some(moved)) ? ` Fresh simulations moved intervals at ${percent(asked(off[0]))}; these are of the draws as they are.` : "";
    const words = `Asked at ${percent(asked(off[0]))}; at ${percent(level)} the intervals are taken from ${off[0].draws.count.toLocaleString("en-US")} draws of the answer, in this browser.${any} `;
    said.push(el("p", { class: "moved" }, words, el("button", { type: "button", onclick: () => off.forEach(again) }, `Ask again at ${percent(level)}`)));
  }
  return said;
}

function card(colour, title, state, reasons) {
  const [first, ...rest] = reasons, inside = rest.length ? rest : [first];
  const cut = rest.length ? first : brief(first);
  return el("details", { class: `check ${colour}` }, el("summary", {}, symbol(colour), el("span", {}, el("b", {}, title), " ", el("span", { class: "state" }, `${state}.`), " ", sentence(cut))), inside.map((one) => el("p", {}, sentence(one))));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
const brief = (text) => { const [first] = text.split(/; |\. (?=[A-Z])/); return first.length > 180 ? `${first.slice(0, first.lastIndexOf(" ", 180))} …` : first; };

/** All that was checked of an answer, the gravest first; what is good together, in one line. */
export function cards(json) {
  const found = json.calibration, light = json.lights.find((one) => one.name === "calibration"), other = light?.level === "unknown" && found.state !== "not checked";
  const title = (name) => name.charAt(0).toUpperCase() + name.slice(1), trust = TRUST[json.trust.level] || "amber", colour = other ? "grey" : STATES[found.state] || "amber";
  const likeness = { green: "Like the simulations", red: "Unlike the simulations", amber: json.trust.level === "unusual" ? "Unusual" : "Not known" };
  const all = [[colour, "Calibration", other ? "Of the network, not of this answer" : STATE_WORDS[found.state] || found.state, found.reasons.length ? found.reasons : ["no reasons were given"]], [trust, "Observation", likeness[trust], [json.trust.verdict]],
    ...json.checks.map((one) => { const level = CHECKS[one.level] || "amber"; return [level, title(one.name), one.level === "unknown" ? "Not known" : WORDS[level], [one.verdict]]; })];
  const bad = ["red", "amber", "grey"].flatMap((one) => all.filter(([of]) => of === one)), good = all.filter(([of]) => of === "green");
  const names = good.map(([, name]) => name.toLowerCase()).join(", "), count = `${good.length} ${good.length === 1 ? "check" : "checks"}`;
  const passed = good.length ? el("details", { class: "check green" }, el("summary", {}, symbol("green"), el("span", {}, el("span", { class: "state" }, `${count} passed: `), `${names}.`)), good.map((one) => card(...one))) : "";
  return [...bad.map((one) => card(...one)), passed];
}

export const MEANING = el("details", {}, el("summary", {}, "What a verdict means, and what to do"),
  el("p", {}, "✓ No error was seen. ! Read the answer with care: an error may be there, or it could not be told. ✕ Do not use the answer as it stands. – Was not looked at."),
  el("p", {}, "Calibration: on fresh simulations, whose true parameters are known, an interval of 90% should hold the truth in 90 of 100. Observation: whether data like these were among the simulations; a network knows nothing of others. Checks by simulation: whether the model reproduces the data, and whether the posterior is right at them."),
  el("p", {}, "What was found, and the way out, is in the words of each check: open it with +. Who trained the model can mend it with more simulations, or with some around this observation (sciinf infer with --refine auto)."));

/** What the model answers: its parameters with their priors, and what its calibration found. */
export function priors(model) {
  const rows = model.parameters.map(({ name, label, unit: of, prior }) => el("tr", {}, el("th", { scope: "row" }, label || name), el("td", {}, unit(of) || "–"), el("td", { class: "wrap" }, prior?.law || "–"),
    el("td", { class: "n" }, prior ? `${number(prior.low, (prior.high - prior.low) / 10)} to ${number(prior.high, (prior.high - prior.low) / 10)}` : "–")));
  const head = ["parameter", "unit", "prior", "99.8% of it"].map((one, k) => el("th", { scope: "col", class: k === 3 ? "n" : undefined }, one));
  return [el("p", {}, "Give it one observation, and within a second it says what the parameters behind it may be, and whether to rely on that."),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Parameters and priors" }, el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))),
    ...(model.calibration ? [el("p", {}, el("b", {}, `Calibration: ${model.calibration.state}. `), (model.calibration.reasons || []).map(sentence).join(" "))] : [])];
}

/** The correlations of the parameters that the corner shows, for who does not see it. */
export function correlations(answer, chosen) {
  const at = chosen.map(({ name }) => answer.draws.names.indexOf(name));
  const rows = chosen.map(({ label }, r) => el("tr", {}, el("th", { scope: "row" }, label), at.map((b) => el("td", { class: "n" }, number(correlation(answer.draws, at[r], b), 0.1)))));
  return el("details", {}, el("summary", {}, `Correlations${answer.json.name ? ` of ${answer.json.name}` : ""}`), table("Correlation of the draws, from −1 to 1.", ["parameter", ...chosen.map((one) => one.label)], rows, `Correlations of ${answer.json.name}`));
}
