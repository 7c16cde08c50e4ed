// An answer in words and tables: its verdict, its numbers, its findings. What they say is the service's.
import { isDiscrete, shared, told } from "./discrete.js";
import { compared, correlation, interval, number, percent, unit } from "./draws.js";
import { el, framed, svg, table } from "./service.js";

const COLOURS = { good: "green", caution: "amber", unknown: "amber", alarm: "red" };
const SYMBOLS = { green: "✓", amber: "!", red: "✕", grey: "–" };
const STATES = { good: "Good", caution: "Caution", unknown: "Could not be told", alarm: "Warning" };
const LONG = 8; // letters of a number, beyond which columns are as wide as they need

/** The colours of a verdict and of a finding. */
export const colourOf = (json) => COLOURS[json.verdict] ?? "amber";
const colourIn = (one) => one.weaker ? "grey" : COLOURS[one.level] ?? "amber";
const stateOf = (one) => one.weaker ? "Weaker evidence" : STATES[one.level];

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const sentence = (text) => capital(text) + (/[.!?…]$/.test(text) ? "" : ".");
const symbol = (colour) => el("span", { class: "symbol", "aria-hidden": "true" }, SYMBOLS[colour]);
const unseen = (text) => el("span", { class: "unseen" }, text);

/** The verdict on an answer.
 * @param at which answer it is; @param still what is said of checks that are still to be made. */
export function verdict(json, at, still, remove) {
  const lights = json.findings.map((one) => {
    const colour = colourIn(one), spoken = unseen(`${stateOf(one)}: `);
    return el("li", { class: colour, title: one.text }, symbol(colour), el("span", {}, spoken, one.name));
  });
  const close = el("button", { class: "close", type: "button", "aria-label": `Take away ${json.name}`, onclick: remove }, "Take away");
  const of = [`${json.posterior} posterior${json.around && json.around !== json.name ? ` around ${json.around}` : ""}${json.scope ? `, ${json.scope}` : ""}`, ...(json.read || [])];
  return el("section", { class: `verdict ${colourOf(json)}`, "aria-label": `Verdict on ${json.name}` },
    el("p", { class: `whose ${at ? "second" : "first"}` }, el("b", {}, json.name || "observation"), close),
    el("p", { class: "headline" }, json.sentence), still, el("ul", { class: "lights" }, lights), el("p", { class: "caption" }, of.join(" · ")));
}

/** What an estimate's interval is at a level: the service's own at the level asked, of the draws at others. */
export function endsAt(answer, name, level) {
  const one = answer.json.parameters[name];
  return Math.abs(level - one.level) < 1e-9 ? one.interval : interval(answer.draws, answer.draws.names.indexOf(name), level);
}

/** Median and interval as they are printed, each to two digits of its own width. */
export function printed(answer, name, level) {
  const one = answer.json.parameters[name], [low, high] = endsAt(answer, name, level);
  const [below, above] = [one.median - low, high - one.median], widths = [below, above].filter((width) => width > 0);
  const median = number(one.median, widths.length ? Math.min(...widths) : 0);
  const both = [number(low, below), number(high, above)];
  return { median, both, range: both.join(" to "), unit: unit(one.unit) };
}

function bar(answer, name, level, prior, k) {
  const at = (value) => 100 * Math.min(Math.max((value - prior.low) / (prior.high - prior.low), 0), 1);
  const [low, high] = endsAt(answer, name, level).map(at), wide = Math.max(high - low, 0.8), middle = at(answer.json.parameters[name].median);
  const parts = [["track", "M0 6H100"], ["inner", `M${low} 2h${wide}v8h${-wide}z`], ["middle", `M${middle} 1V11`]];
  const look = { class: `bar ${k ? "second" : ""}`, viewBox: "-1 0 102 14", preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", look, ...parts.map(([kind, d]) => svg("path", { class: kind, d })));
}

/** Medians and intervals of all parameters at a level, within their priors. */
export function numbers(answers, parameters, level) {
  const several = answers.length > 1, value = (...text) => el("span", { class: "value" }, ...text);
  let most = 0; // letters of a number
  const sometimes = answers.some((one) => parameters.some(({ name }) => one.json.parameters[name].exists < 1));
  const rows = parameters.flatMap(({ name, label, prior, derived }) => answers.map((answer, k) => {
    const { exists = 1 } = answer.json.parameters[name];
    const { median, both, unit: of } = printed(answer, name, level), own = label === name ? [] : [" ", el("code", { class: "own" }, name)];
    const [first, last] = [0, 1].map(() => (of ? [" ", el("span", { class: "unit" }, of)] : []));
    most = Math.max(most, ...[median, ...both].map((one) => one.length));
    const head = k ? null : el("th", { scope: "row", rowspan: answers.length }, label, derived ? " (derived)" : "", own);
    const mark = several ? el("span", { class: `mark ${k ? "second" : "first"}`, title: answer.json.name }, unseen(`${answer.json.name}: `)) : null;
    const within = el("td", { class: "within" }, prior && exists > 0 ? bar(answer, name, level, prior, k) : null);
    const there = sometimes ? el("td", { class: "n" }, exists === 1 ? "1" : told(exists, exists > 0 ? 0 : 1 / answer.draws.ess)) : null;
    const range = el("td", { class: "n" }, exists > 0 ? [value(both[0]), " ", value("to ", both[1]), ...last] : "–");
    return el("tr", {}, head, there, el("td", { class: "n" }, value(mark, median), exists > 0 ? first : []), range, within);
  }));
  const names = ["parameter", ...(sometimes ? ["exists"] : []), "median", `${percent(level)} interval`, "within the prior"];
  const head = names.map((one, k) => el("th", { scope: "col", class: k ? "n" : undefined }, one));
  const caption = `These data, this model and this prior give a value inside its interval a probability of ${percent(level)}.` +
    (sometimes ? " Numbers of a parameter that does not always exist are of the draws in which it does." : "");
  const made = framed("Medians and intervals", head, rows, caption);
  made.classList.toggle("long", most > LONG);
  return made;
}

/** How two answers differ: shift and overlap of each parameter. */
export function comparison([first, second], parameters) {
  const rows = parameters.map(({ name, label }) => {
    const [one, other] = [first, second].map(({ json }) => json.parameters[name]);
    if (isDiscrete(one)) return [label, "–", `${Math.round(100 * shared(one, other))}%`];
    if (one.exists === 0 || other.exists === 0) return [label, "–", "–"];
    const [a, b] = [first, second].map((one) => one.draws.names.indexOf(name)), { overlap, shift } = compared(first.draws, a, second.draws, b);
    return [label, `${shift >= 0 ? "+" : "−"}${Math.abs(shift).toFixed(1)} sd`, `${Math.round(100 * overlap)}%`];
  });
  const caption = `From ${first.json.name} to ${second.json.name}. Shift: difference of the means over the root of the sum of both ` +
    "variances. Overlap: what the two densities have in common.";
  return table("Comparison of the two answers", ["parameter", "shift", "overlap"], rows, { caption });
}

const moved = (one) => one?.corrected && one.corrected.moved > one.corrected.chance;
export const asked = (answer) => Object.values(answer.json.parameters)[0].level;

/** What fresh simulations say of the intervals, and which level the words are about. */
export function notes(answers, parameters, level, again) {
  const off = answers.filter((one) => Math.abs(level - asked(one)) > 1e-9), said = [];
  for (const { json } of answers.filter((one) => !off.includes(one))) {
    const of = parameters.filter(({ name }) => moved(json.parameters[name])).map(({ name, label }) => {
      const { corrected: { interval: [low, high], local }, unit: u } = json.parameters[name], width = (high - low) / 2;
      return `${label} ${number(low, width)} to ${number(high, width)}${u ? ` ${unit(u)}` : ""}${local ? " (for data like these)" : ""}`;
    });
    const words = `${json.name}: intervals that held ${percent(level)} on fresh simulations are others than those of the draws: `;
    if (of.length) said.push(el("p", { class: "moved" }, `${words}${of.join(", ")}.`));
    const [held, chance] = json.region || [level, 0];
    if (Math.abs(held - level) > chance) {
      const drawn = `the ${(100 * held).toFixed(1)}% region of the draws by density`;
      said.push(el("p", { class: "moved" }, `${json.name}: on fresh simulations the ${percent(level)} region of all parameters is ${drawn}.`));
    }
  }
  if (off.length) {
    const of = off.flatMap((one) => Object.values(one.json.parameters)), at = percent(asked(off[0]));
    const count = off[0].draws.count.toLocaleString("en-US");
    const words = [`Asked at ${at}; at ${percent(level)} the intervals are taken from ${count} draws, in this browser.`];
    if (of.some(moved)) words.push(`Fresh simulations moved intervals at ${at}; these are of the draws as they are.`);
    else if (of.some((one) => one.corrected)) words.push("Whether fresh simulations move them here is known when you ask again.");
    const button = el("button", { type: "button", onclick: () => off.forEach(again) }, `Ask again at ${percent(level)}`);
    said.push(el("p", { class: "moved" }, words.join(" "), " ", button));
  }
  return said;
}

function card(one) {
  const colour = colourIn(one), state = el("span", { class: "state" }, `${stateOf(one)}.`);
  const words = el("span", {}, el("b", {}, capital(one.name)), " ", state, " ", sentence(one.text));
  return el("details", { class: `check ${colour}` }, el("summary", {}, symbol(colour), words), el("p", {}, sentence(one.verdict)));
}

/** All findings about an answer, the gravest first; what is good together, in one line. */
export function cards(json) {
  const of = (colour) => json.findings.filter((one) => colourIn(one) === colour);
  const bad = ["red", "amber", "grey"].flatMap(of), good = of("green");
  if (!good.length) return bad.map(card);
  const count = el("span", { class: "state" }, `${good.length} ${good.length === 1 ? "check" : "checks"} passed: `);
  const names = el("span", {}, count, `${good.map((one) => one.name).join(", ")}.`);
  return [...bad.map(card), el("details", { class: "check green" }, el("summary", {}, symbol("green"), names), good.map(card))];
}

/** What verdicts mean. */
export function meaning() {
  const words = [
    "✓ No error was seen. ! Read the answer with care: an error may be there, or it could not be told. ✕ Do not use the answer as it " +
    "stands. – Says otherwise than the verdict, and rests on weaker evidence than what decided.",
    "Calibration: on fresh simulations, whose true parameters are known, an interval of 90% should hold the truth in 90 of 100. " +
    "Observation: whether data like these were among the simulations; a network knows nothing of others. Checks by simulation: whether " +
    "the model reproduces the data, and whether the posterior is right at them.",
    "What was found, and the way out, is in the words of each check: open it with +. Who trained the model can mend it with more " +
    "simulations, or with some around this observation (sciinf infer with --refine auto)."];
  return el("details", {}, el("summary", {}, "What a verdict means, and what to do"), words.map((one) => el("p", {}, one)));
}

/** What the model answers: its parameters with their priors, and what its calibration found. */
export function priors({ parameters, calibration }) {
  const rows = parameters.map(({ name, label, unit: of, prior: { law, low, high, values, probabilities } }) => {
    const width = (high - low) / 10;
    const each = (values || []).slice(0, 6).map((one, k) => `${one}: ${told(probabilities[k], 0)}`).join(", ");
    if (values) return [label || name, unit(of) || "–", law, each + (values.length > 6 ? ", …" : "")];
    return [label || name, unit(of) || "–", law, `${number(low, width)} to ${number(high, width)}`];
  });
  const words = "Give it one observation, and within a second it says what the parameters behind it may be, and whether to rely on that.";
  const head = ["parameter", "unit", "prior", "99.8% of it"], found = calibration && calibration.reasons.map(sentence).join(" ");
  return [el("p", {}, words), table("Parameters and priors", head, rows, { words: [1, 2] }),
    calibration ? el("p", {}, el("b", {}, `Calibration: ${calibration.state}. `), found) : ""];
}

/** The correlations of the parameters that the corner shows, for who does not see it. */
export function correlations(answer, chosen) {
  const { json, pictured } = answer, at = chosen.map(({ name }) => pictured.names.indexOf(name)), name = `Correlations of ${json.name}`;
  const rows = chosen.map(({ label }, r) => [label, ...at.map((b) => number(correlation(pictured, at[r], b), 0.1))]);
  const head = ["parameter", ...chosen.map((one) => one.label)];
  return el("details", {}, el("summary", {}, name), table(name, head, rows, { caption: "Correlation of the draws, from −1 to 1." }));
}
