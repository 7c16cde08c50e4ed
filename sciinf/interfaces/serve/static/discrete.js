// Parameters whose values have probabilities: which model, how many. Bars with the prior's tick; a value that no draw has
// is not impossible, and is told as less than one draw's part.
import { el, framed, svg } from "./service.js";

const MOST = 16, FEW = 4, SURE = 1e-6; // values that have a row; of which Bayes factors are told; see `bare`

export const isDiscrete = (one) => Array.isArray(one?.probability);

const two = (value) => (value >= 1e-6 ? String(Number(value.toPrecision(2))) : value.toExponential(1));
const few = (value, error) => value.toFixed(Math.min(Math.max(2, 1 - Math.floor(Math.log10(error))), 12));
const nearOne = (rest) => (rest > 0 ? (1 - rest).toFixed(Math.min(Math.max(2, 1 - Math.floor(Math.log10(rest))), 15)).replace(/0+$/, "") : "1");

/** A probability without an error; no nearer to 0 or 1 than a millionth, which nothing that is learned knows. */
function bare(p) {
  if (p >= 1 || p <= 0) return String(p);
  if (p < SURE || p > 1 - SURE) return p < 0.5 ? `< ${SURE.toFixed(6)}` : `> ${1 - SURE}`;
  return p >= 0.01 && p <= 0.99 ? p.toFixed(2) : p > 0.99 ? nearOne(1 - p) : two(p);
}

/** A probability as it is printed, by the rule of the library's `told`. */
export function told(p, error) {
  if (p === null || !Number.isFinite(p)) return "–";
  if (p <= 0 && error > 0) return `< ${two(error)}`;
  if (p >= 1 && error > 0) return `> ${nearOne(error)}`;
  if (!(error > 0) || Math.max(p, error) < SURE) return bare(p);
  return `${few(p, error)} ± ${two(error)}`;
}

/** Places of the most probable values, in the prior's order. */
function shown({ probability }) {
  return [...probability.keys()].sort((a, b) => probability[b] - probability[a]).slice(0, MOST).sort((a, b) => a - b);
}

const among = (name, { counted, values }) =>
  (counted ? `among ${values[0]} to ${values[values.length - 1]}` : name === "model" ? "among the listed models" : "among the listed values");

function bar(p, prior, k) {
  const parts = [["track", "M0 6H100"], ["inner", `M0 2h${100 * p}v8h${-100 * p}z`], ["tick-of-prior", `M${100 * prior} 0V12`]];
  const look = { class: `bar ${k ? "second" : ""}`, viewBox: "-1 0 102 14", preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", look, ...parts.map(([kind, d]) => svg("path", { class: kind, d })));
}

/** Logarithms of Bayes factors of the most probable value against the others, where they are few; by the library's rule. */
function factors({ values, probability, error, prior }) {
  if (values.length > FEW || !probability.every((one) => Number.isFinite(one))) return [];
  const [best, ...others] = [...probability.keys()].sort((a, b) => probability[b] - probability[a]);
  const log = (k) => Math.log(probability[k] || error[k] || 1e-300) - Math.log(prior[k]);
  return others.map((k) => {
    const size = log(best) - log(k), off = probability[k] > 0 ? error[best] / probability[best] + error[k] / probability[k] : Infinity;
    const shown = off === Infinity ? `above ${size.toFixed(1)}` : off > 0 ? `${few(size, off)} ± ${two(off)}` : size.toFixed(2);
    return `log Bayes factor of ${values[best]} against ${values[k]}: ${shown}`;
  });
}

/** A table for each discrete parameter: its values with their probabilities, of each answer. */
export function probabilities(answers, parameters) {
  return parameters.map(({ name, label }) => {
    const found = answers.map((one) => one.json.parameters[name]), places = [...new Set(found.flatMap(shown))].sort((a, b) => a - b);
    const rows = places.flatMap((at) => found.map((one, k) => {
      const head = k ? null : el("th", { scope: "row", rowspan: found.length }, one.values[at]);
      const mark = found.length > 1 ? el("span", { class: `mark ${k ? "second" : "first"}`, title: answers[k].json.name }) : null;
      const words = el("td", { class: "n" }, el("span", { class: "value" }, mark, told(one.probability[at], one.error[at])));
      return el("tr", {}, head, words, el("td", { class: "within" }, bar(one.probability[at] || 0, one.prior[at], k)));
    }));
    const rest = found[0].values.length - places.length, exists = found.map((one) => one.exists).filter((one) => one < 1);
    const caption = [`Probability of each value of ${label} ${among(name, found[0])}. The tick is the prior's.`];
    if (rest) caption.push(`${rest} less probable ones are not shown.`);
    const there = exists.map((one) => told(one, 0)).join(" and ");
    if (there) caption.push(`It exists with probability ${there}; these are of the draws in which it does.`);
    answers.forEach(({ json }, k) => {
      const said = factors(found[k]), of = answers.length > 1 ? `${json.name}: ` : "";
      const alone = said.length && json.log_evidence === null ? " (of the network alone: no likelihood corrects it)" : "";
      if (said.length) caption.push(`${of}${said.join("; ")}${alone}.`);
    });
    const head = [label, "probability", "with the prior"].map((one, k) => el("th", { scope: "col", class: k ? "n" : undefined }, one));
    return framed(`Probabilities of ${label}`, head, rows, caption.join(" "));
  });
}

/** What two answers have in common of a discrete parameter, from 0 to 1. */
export const shared = (a, b) => a.probability.reduce((sum, one, k) => sum + Math.min(one, b.probability[k]), 0);

/** The values that were given, in words. */
export const saidGiven = (given) => Object.entries(given).map(([name, value]) => `${name} = ${value}`).join(" and ");
