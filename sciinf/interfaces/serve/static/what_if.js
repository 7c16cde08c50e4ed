// Data for parameters that the reader chooses: the nearest that were simulated at once, the exact ones soon after.
import { number, unit } from "./draws.js";
import { el, get, models } from "./service.js";

const PAUSE = 150, KEPT = 400, STEPS = 200;

/** What was chosen last, of which answer: the page is drawn anew when its checks arrive. */
const last = { of: "", chosen: [] };

/** Sliders of the parameters, and choices of discrete ones; what does not exist with these is set aside.
 * @param lay draws data, {observable: values}, or takes them away, null. */
export function whatIf(box, model, answer, lay) {
  const logs = model.parameters.map(({ prior: { low, high } }) => low > 0 && high / low > 20), kept = [];
  const begin = ({ values, probability, median }, { low, high }) =>
    (probability ? values[probability.indexOf(Math.max(...probability))] : median ?? (low + high) / 2);
  const key = `${model.name}/${answer.json.name}`;
  const start = model.parameters.map(({ name, prior }) => begin(answer.json.parameters[name], prior));
  const at = (name) => model.parameters.findIndex((one) => one.name === name);
  const holds = ([name, labels]) => there(at(name)) && labels.includes(chosen[at(name)]);
  const there = (k) => Object.entries(model.parameters[k].prior.exists || {}).every(holds);
  const said = el("p", { class: "caption", role: "status" }, "Move a slider: the curve is one simulation, with its noise."), chosen = last.of === key ? last.chosen : [...start];
  let timer = 0, running = null;

  const ends = model.parameters.map(({ prior: { low, high } }) => [low, high]), map = (k) => (logs[k] ? Math.log : (v) => v);
  const far = (k, value) => 10 * model.parameters[k].prior.values.indexOf(value); // another model is never near
  const place = (k, value) => (typeof value === "string" ? far(k, value) : there(k) ? scaled(k, value) : 0);
  const scaled = (k, value) => (map(k)(value) - map(k)(ends[k][0])) / (map(k)(ends[k][1]) - map(k)(ends[k][0]));
  const value = (k, at) => (logs[k] ? ends[k][0] * (ends[k][1] / ends[k][0]) ** at : ends[k][0] + (ends[k][1] - ends[k][0]) * at);
  const print = (k) => `${number(chosen[k], (logs[k] ? chosen[k] : ends[k][1] - ends[k][0]) / 40)} ${unit(model.parameters[k].unit)}`.trim();

  async function exact() {
    running?.abort();
    const own = (running = new AbortController()), theta = [...chosen], here = theta.map((v, k) => place(k, v));
    try {
      const body = { theta: Object.fromEntries(model.parameters.map(({ name }, k) => [name, there(k) ? theta[k] : null])), seed: 0 };
      if (model.as_seen) body.x = answer.json.observation; // its times, what is missing and its controls
      const x = await get(`${models(model.name)}/simulate`, { body, signal: own.signal });
      kept.push({ at: here, x });
      if (kept.length > KEPT) kept.shift();
      lay(x);
      said.textContent = `Purple: one simulation for these parameters, with its noise${model.as_seen ? `, observed as ${answer.json.name} was` : ""}.`;
    } catch (error) {
      if (error.name !== "AbortError") { lay(null); said.textContent = error.message; }
    }
  }

  function moved() {
    const at = chosen.map((v, k) => place(k, v)), away = (one) => one.at.reduce((sum, v, k) => sum + (v - at[k]) ** 2, 0);
    if (kept.length) lay(kept.reduce((best, one) => (away(one) < away(best) ? one : best)).x);
    said.textContent = "Simulating …";
    clearTimeout(timer);
    timer = setTimeout(exact, PAUSE);
  }

  function choice({ name, label, prior: { values } }, k) {
    const id = `theta${k}`, slider = el("select", { id }, values.map((one) => el("option", {}, one))), out = el("output", { for: id });
    const show = () => { slider.value = chosen[k]; slider.disabled = !there(k); out.textContent = there(k) ? "" : "does not exist"; };
    slider.addEventListener("change", () => { chosen[k] = slider.value; rows.forEach((one) => one.show()); moved(); });
    return { slider, show, set: () => {}, row: el("div", { class: "theta" }, el("label", { for: id }, label || name), slider, out) };
  }

  const rows = model.parameters.map((of, k) => {
    if (of.prior.values) return choice(of, k);
    const { name, label } = of, id = `theta${k}`, out = el("output", { for: id });
    const slider = el("input", { type: "range", id, min: 0, max: STEPS, step: 1, value: Math.round(STEPS * scaled(k, start[k])) });
    const show = () => { slider.disabled = !there(k); out.textContent = there(k) ? print(k) : "does not exist"; slider.setAttribute("aria-valuetext", out.textContent); };
    slider.addEventListener("input", () => { chosen[k] = value(k, slider.value / STEPS); show(); moved(); });
    const set = () => { slider.value = Math.round(STEPS * scaled(k, chosen[k])); };
    return { slider, show, set, row: el("div", { class: "theta" }, el("label", { for: id }, label || name), slider, out) };
  });
  const back = el("button", { type: "button", onclick: () => {
    chosen.splice(0, chosen.length, ...start);
    rows.forEach(({ set, show }) => { set(); show(); });
    moved();
  } }, "Back to the medians");
  const gone = () => { clearTimeout(timer); running?.abort(); lay(null); said.textContent = ""; };
  const away = el("button", { type: "button", onclick: gone }, "Take the curve away");
  rows.forEach(({ set, show }) => { set(); show(); });
  const moved_before = last.of === key && chosen.some((v, k) => v !== start[k]);
  Object.assign(last, { of: key, chosen });
  if (moved_before) moved();
  box.replaceChildren(...rows.map((one) => one.row), el("p", {}, back, " ", away), said);
}
