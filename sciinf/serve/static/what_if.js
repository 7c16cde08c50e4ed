// Data for parameters that the reader chooses: the nearest that were simulated at once, the exact ones soon after.
import { number, unit } from "./draws.js";
import { el, get, models } from "./service.js";

const PAUSE = 150, KEPT = 400, STEPS = 200;

/** Sliders of the parameters.
 * @param lay draws data, {observable: values}, or takes them away, null. */
export function whatIf(box, model, answer, lay) {
  const logs = model.parameters.map(({ prior: { low, high } }) => low > 0 && high / low > 20);
  const start = model.parameters.map(({ name }) => answer.json.parameters[name].median), kept = [];
  const said = el("p", { class: "caption", role: "status" }, "Move a slider: the curve is one simulation, with its noise."), chosen = [...start];
  let timer = 0, running = null;

  const ends = model.parameters.map(({ prior: { low, high } }) => [low, high]), map = (k) => (logs[k] ? Math.log : (v) => v);
  const place = (k, value) => (map(k)(value) - map(k)(ends[k][0])) / (map(k)(ends[k][1]) - map(k)(ends[k][0]));
  const value = (k, at) => (logs[k] ? ends[k][0] * (ends[k][1] / ends[k][0]) ** at : ends[k][0] + (ends[k][1] - ends[k][0]) * at);
  const print = (k) => `${number(chosen[k], (logs[k] ? chosen[k] : ends[k][1] - ends[k][0]) / 40)} ${unit(model.parameters[k].unit)}`.trim();

  async function exact() {
    running?.abort();
    const own = (running = new AbortController()), theta = [...chosen];
    try {
      const body = { theta: Object.fromEntries(model.parameters.map(({ name }, k) => [name, theta[k]])), seed: 0 };
      const x = await get(`${models(model.name)}/simulate`, { body, signal: own.signal });
      kept.push({ at: theta.map((v, k) => place(k, v)), x });
      if (kept.length > KEPT) kept.shift();
      lay(x);
      said.textContent = "Purple: one simulation for these parameters, with its noise.";
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

  const rows = model.parameters.map(({ name, label }, k) => {
    const id = `theta${k}`, out = el("output", { for: id });
    const slider = el("input", { type: "range", id, min: 0, max: STEPS, step: 1, value: Math.round(STEPS * place(k, start[k])) });
    const show = () => { out.textContent = print(k); slider.setAttribute("aria-valuetext", print(k)); };
    slider.addEventListener("input", () => { chosen[k] = value(k, slider.value / STEPS); show(); moved(); });
    show();
    return { slider, show, row: el("div", { class: "theta" }, el("label", { for: id }, label || name), slider, out) };
  });
  const back = el("button", { type: "button", onclick: () => {
    rows.forEach(({ slider, show }, k) => { chosen[k] = start[k]; slider.value = Math.round(STEPS * place(k, start[k])); show(); });
    moved();
  } }, "Back to the medians");
  const gone = () => { clearTimeout(timer); running?.abort(); lay(null); said.textContent = ""; };
  const away = el("button", { type: "button", onclick: gone }, "Take the curve away");
  box.replaceChildren(...rows.map((one) => one.row), el("p", {}, back, " ", away), said);
}
