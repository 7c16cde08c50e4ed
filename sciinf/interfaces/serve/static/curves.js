// Densities of parameters, and data with what is predicted, by uPlot; in the colours of the style sheet.
import uPlot from "./uPlot.esm.js";
import { density, digitsOf, less, limits, named, offsetOf, tick, ticks } from "./draws.js";
import { el, table } from "./service.js";

export const COLOURS = ["blue", "orange"];
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const faint = (name, share) => colour(name) + Math.round(255 * share).toString(16).padStart(2, "0");
export const font = (size = 12, weight = "") => `${weight} ${size}px ${colour("sans")}`;
const MOST_PANELS = 8, MOST_ROWS = 200;

/** An axis of uPlot in our look; `from` is taken off its ticks. */
export function axis(label, more = {}, from = 0) {
  const onAxis = (_, splits) => {
    const some = ticks(splits.filter((one) => one !== null), from);
    return splits.map((one) => (one === null ? "" : some.shift()));
  };
  const words = { stroke: colour("muted"), label, labelFont: font(12, "600"), font: font(11.5), labelSize: 20, labelGap: 0, size: 30, gap: 4 };
  return { ...words, grid: { show: false }, ticks: { stroke: colour("rule"), width: 1, size: 4 }, values: onAxis, ...more };
}

/** A plot as wide as its box, which follows it. */
export function plot(box, height, options, data) {
  const made = new uPlot({ width: Math.max(box.clientWidth, 120), height, legend: { show: false }, ...options }, data, box);
  const fit = () => { if (box.clientWidth > 0 && box.clientWidth !== made.width) made.setSize({ width: box.clientWidth, height }); };
  new ResizeObserver(fit).observe(box);
  return made;
}

function between(grid, values, x) {
  if (x < grid[0] || x > grid[grid.length - 1]) return 0;
  let k = 1;
  while (k < grid.length - 1 && grid[k] < x) k += 1;
  return values[k - 1] + ((values[k] - values[k - 1]) * (x - grid[k - 1])) / (grid[k] - grid[k - 1]);
}

/** The range of several ranges. */
export const joint = (ranges) => ranges.reduce(([a, b], [low, high]) => [Math.min(a, low), Math.max(b, high)], [Infinity, -Infinity]);
export const priorAt = (prior, x) => between(prior.grid, prior.density, x);

function dashed(u, places, name) {
  u.ctx.save();
  u.ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  u.ctx.strokeStyle = colour(name);
  u.ctx.lineWidth = devicePixelRatio;
  for (const place of places) {
    const x = Math.round(u.valToPos(place, "x", true));
    if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
    u.ctx.beginPath(); u.ctx.moveTo(x, u.bbox.top); u.ctx.lineTo(x, u.bbox.top + u.bbox.height); u.ctx.stroke();
  }
  u.ctx.restore();
}

/** One parameter: the density of each answer over the dashed prior; `ends` gives the intervals as they are now. */
export function marginal(answers, name, { label, prior, whole, ends, said }) {
  const box = el("div", { class: "plot", role: "img", "aria-label": said() }), at = answers.map((one) => one.draws.names.indexOf(name));
  let window = joint(answers.map((one, k) => limits(one.draws, at[k])));
  if (whole && prior) window = joint([window, [prior.low, prior.high]]);
  const found = answers.map((one, k) => density(one.draws, at[k], window)), x = Array.from(found[0].x);
  const lines = answers.map((_, k) => ({ stroke: colour(COLOURS[k]), width: 1.5, fill: faint(COLOURS[k], 0.16), pxAlign: 0, points: { show: false } }));
  const series = [{}, ...lines], data = [x, ...found.map((one) => Array.from(one.y))];
  if (prior?.density.length) {
    series.push({ stroke: colour("muted"), width: 1.2, dash: [5, 3], pxAlign: 0, points: { show: false } });
    data.push(x.map((one) => priorAt(prior, one)));
  }
  const from = offsetOf(window), axes = [axis(named(less(label, from), answers[0].draws.units[at[0]]), {}, from), { show: false }];
  const options = { padding: [6, 14, 0, 14], cursor: { show: false }, series, axes,
    scales: { x: { time: false, range: () => window }, y: { range: (_, __, most) => [0, 1.05 * most] } },
    hooks: { draw: [(u) => ends().forEach((pair, k) => dashed(u, pair, COLOURS[k]))] } };
  let made;
  const update = () => { made.redraw(); box.setAttribute("aria-label", said()); };
  return { box, draw: () => { made = plot(box, 150, options, data); }, update };
}

// --- data ---

const flat = (values) => (Array.isArray(values) ? values.flat(Infinity) : [values]);
const numeric = (values) => values && values.every((one) => typeof one === "number");

const after = (shape, k) => shape.slice(k + 1).reduce((a, b) => a * b, 1);
const IMAGE = ["x", "y", "row", "column"];

/** Where the numbers of an observable stand: panels of numbers along an axis, with the place of each in its flat array. */
function layout({ shape, dims, coordinates }) {
  const size = after(shape, -1), long = [...shape.keys()].filter((k) => shape[k] > 1), [a, b] = long, of = (k) => coordinates?.[dims[k]] || {};
  if (size <= 3 || long.length > 2) return { kind: long.length > 2 ? "many" : "few", size };
  const time = long.find((k) => dims[k] === "time"), along = long.length === 1 ? a : time ?? (shape[a] >= shape[b] ? a : b);
  const across = long.find((k) => k !== along), places = [...Array(shape[along]).keys()].map((i) => i * after(shape, along));
  if (across !== undefined && (shape[across] > MOST_PANELS || IMAGE.includes(dims[across]))) return { kind: "image", size, columns: shape[b] };
  const panels = across === undefined ? [{ title: "", index: places }] : [...Array(shape[across]).keys()].map((p) => ({
    title: String(of(across).values?.[p] ?? `${dims[across] || "column"} ${p}`), index: places.map((one) => one + p * after(shape, across)) }));
  const { values, unit: u } = of(along), dim = dims[along], label = values ? named(dim, u) : dim ? `${dim} (index)` : "index";
  const names = values && !numeric(values) ? values.map(String) : null, x = numeric(values) ? values : [...places.keys()];
  const from = names ? 0 : offsetOf(joint(x.map((one) => [one, one])));
  return { kind: "panels", size, panels, label, names, x, from, beside: values && !names ? named(less(dim, from), u) : label };
}

function bandOf(answer, name) {
  const found = answer.json.predictive && answer.json.predictive[name];
  if (!found) return null;
  const rows = found.values.map(flat), at = (q) => rows[found.quantiles.findIndex((one) => Math.abs(one - q) < 1e-9)];
  const inner = at(0.25) && at(0.75) ? [at(0.25), at(0.75)] : null;
  return { low: rows[0], high: rows[rows.length - 1], middle: at(0.5), inner, share: found.quantiles[rows.length - 1] - found.quantiles[0] };
}

/** Places of the strange numbers of an observable, in its flat array. */
function strangeAt(answer, { name, shape }) {
  const boxes = (answer.json.trust.where || []).filter((one) => one.observable === name);
  const place = (i, k) => Math.floor(i / after(shape, k)) % shape[k];
  const inside = (i, { start, stop }) => start.every((from, k) => place(i, k) >= from && place(i, k) < stop[k]);
  return new Set(boxes.length ? [...Array(after(shape, -1)).keys()].filter((i) => boxes.some((box) => inside(i, box))) : []);
}

/** Values of an observable; null where its mask, of their shape or its first axes, says that there is none. */
const present = (data, name) => {
  const values = flat(data[name]), mask = data[`${name}_mask`], there = mask === undefined ? [true] : flat(mask);
  return values.map((one, i) => (there[Math.floor((i * there.length) / values.length)] ? one : null));
};
const seen = (answer, name) => present(answer.json.observation, name);

/** Whether numbers are even in their logarithm, over a decade or more. */
function evenInLogs(x) {
  if (x.length < 4 || !(x[0] > 0) || x[x.length - 1] / x[0] < 10) return false;
  const [least, most] = joint(x.slice(1).map((one, i) => Math.log(one / x[i])).map((one) => [one, one]));
  return most < 1.05 * least;
}

/** One panel: bands, medians, data, strange values, and last the simulated curve, which comes later. */
function panel(box, spec, place, { index, title }, answers) {
  const order = [...place.x.keys()].sort((a, b) => place.x[a] - place.x[b]), log = spec.scale === "log";
  const pick = (values) => order.map((i) => values[index[i]]).map((one) => (one === null || !Number.isFinite(one) || (log && one <= 0) ? null : one));
  const data = [order.map((i) => place.x[i])], series = [{}], bands = [], hidden = { stroke: "transparent", width: 0, points: { show: false } };
  const add = (values, look) => data.push(values) && series.push(look) - 1;
  answers.forEach((answer, k) => {
    const band = bandOf(answer, spec.name), name = COLOURS[k];
    if (!band) return;
    for (const [low, high] of [[band.low, band.high], ...(band.inner ? [band.inner] : [])]) {
      bands.push({ series: [add(pick(high), hidden), add(pick(low), hidden)], fill: faint(name, 0.17) });
    }
    if (band.middle) add(pick(band.middle), { stroke: colour(name), width: 1.5, points: { show: false } });
  });
  answers.forEach((answer, k) => {
    const values = seen(answer, spec.name), strange = strangeAt(answer, spec), name = answers.length > 1 ? COLOURS[k] : "ink";
    const dots = { show: true, size: index.length > 150 ? 3.5 : 5.5, fill: colour(name), stroke: colour(name), width: 0 };
    add(pick(values), { stroke: colour(name), paths: () => null, points: dots });
    const ring = { show: true, size: 12, fill: "transparent", stroke: colour("vermilion"), width: 2 };
    if (strange.size) add(pick(values.map((one, i) => (strange.has(i) ? one : null))), { paths: () => null, points: ring });
  });
  const none = data[0].map(() => null), few = { show: index.length < 9, fill: colour("purple") };
  const last = add(none, { stroke: colour("purple"), width: 2, dash: [6, 3], points: few });
  const atNames = (_, splits) => splits.map((one) => (Number.isInteger(one) ? place.names[one] ?? "" : ""));
  const x = axis(place.beside, place.names ? { values: atNames, space: 70 } : {}, place.from);
  const all = data.slice(1).flat().filter((one) => one !== null), from = log ? 0 : offsetOf(joint(all.map((one) => [one, one])));
  const name = named(less(spec.label || spec.name, from), spec.unit);
  const y = axis(name, { size: 52, labelSize: 22, grid: { stroke: colour("grid"), width: 1 } }, from);
  const scales = { x: { time: false, distr: evenInLogs(data[0]) ? 3 : 1 }, y: { distr: log ? 3 : 1 } };
  if (title) box.append(el("p", { class: "panel" }, title));
  const said = `${spec.label || spec.name}${title ? `, ${title}` : ""}: data, and what the posterior predicts; the numbers are in the table below.`;
  const target = box.appendChild(el("div", { class: "plot", role: "img", "aria-label": said }));
  const options = { padding: [10, 12, 0, 0], series, bands, axes: [x, y], scales, cursor: { y: false, points: { show: false } } };
  const made = plot(target, 230, options, data);
  return (values) => { data[last] = values ? pick(values) : none; made.setData(data); };
}

function image(title, values, columns, [low, high]) {
  const canvas = el("canvas", { width: columns, height: values.length / columns, role: "img", "aria-label": title });
  const context = canvas.getContext("2d"), made = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    const s = value === null ? 0 : Math.min(Math.max((value - low) / (high - low || 1), 0), 1);
    made.data.set([20 + 235 * s, 30 + 215 * s ** 1.2, 70 + 130 * Math.sin(Math.PI * Math.min(s, 0.9)), value === null ? 0 : 255], 4 * i);
  });
  context.putImageData(made, 0, 0);
  return el("figure", { class: "image" }, canvas, el("figcaption", {}, title));
}

/** An image beside the median of those predicted. */
function images(box, spec, { columns }, answers) {
  const all = answers.flatMap((answer) => {
    const band = bandOf(answer, spec.name), of = answers.length > 1 ? `, ${answer.json.name}` : "";
    return [[`observed${of}`, seen(answer, spec.name)], ...(band?.middle ? [[`predicted, median${of}`, band.middle]] : [])];
  });
  const log = spec.scale === "log", scaled = (one) => (one === null || (log && one <= 0) ? null : log ? Math.log10(one) : one);
  const range = joint(all[0][1].map(scaled).filter((one) => one !== null).map((one) => [one, one]));
  const [low, high] = range.map((one) => tick(Number((log ? 10 ** one : one).toPrecision(log ? 3 : digitsOf(range, 3)))));
  const grid = box.appendChild(el("div", { class: "images" }));
  const draw = (more) => grid.replaceChildren(...[...all, ...more].map(([title, one]) => image(title, one.map(scaled), columns, range)));
  draw([]);
  box.append(el("p", { class: "caption" }, `${named(spec.label || spec.name, spec.unit)}, from ${low} (dark) to ${high} (light)`));
  return (simulated) => draw(simulated ? [["simulated", simulated]] : []);
}

/** The numbers of an observable beside those predicted. */
function numbersOf(spec, place, answers) {
  const fine = digitsOf(place.x || [], 6), exact = digitsOf(flat(answers.map((one) => one.json.observation[spec.name])), 4);
  const along = (i) => (place.names ? place.names[i] : String(Number(place.x[i].toPrecision(fine))).replace("-", "−"));
  const where = place.panels ? place.panels.flatMap(({ index, title }) => index.map((at, i) => [at, [title, along(i)].filter(Boolean).join(", ")])) :
    [...Array(place.size).keys()].map((i) => [i, place.size > 1 ? String(i) : "value"]);
  const parts = answers.map((one) => [seen(one, spec.name), bandOf(one, spec.name), answers.length > 1 ? `, ${one.json.name}` : ""]);
  const digits = (one) => (Number.isFinite(one) ? String(Number(one.toPrecision(exact))).replace("-", "−") : "–");
  const head = parts.flatMap(([, band, name]) => [`observed${name}`, ...(band ? [`predicted, ${Math.round(100 * band.share)}%${name}`] : [])]);
  const cells = ([values, band], at) => [digits(values[at]), ...(band ? [`${digits(band.low[at])} to ${digits(band.high[at])}`] : [])];
  const rows = where.slice(0, MOST_ROWS).map(([at, name]) => [name, ...parts.flatMap((one) => cells(one, at))]);
  const caption = named(spec.label || spec.name, spec.unit) + (where.length > MOST_ROWS ? `; the first ${MOST_ROWS} of ${where.length} numbers` : "");
  return table(`Numbers of ${spec.label || spec.name}`, [place.label || "number", ...head], rows, { caption });
}

function keysOf(answers, specs) {
  const band = answers.flatMap((one) => specs.map((spec) => bandOf(one, spec.name))).find(Boolean), several = answers.length > 1;
  const keys = several ? answers.map((one, k) => [`dots ${k ? "second" : "first"}`, `observed, ${one.json.name}`]) : [["dots", "observed"]];
  if (band) keys.push(["region", `predicted, ${Math.round(100 * band.share)}%${band.inner ? " and 50%" : ""}`]);
  if (answers.some((one) => one.json.trust.where?.length)) keys.push(["ring", "strange, given the other data"]);
  const simulated = el("span", { class: "key before", id: "simulated", hidden: true }, "simulated");
  return el("p", { class: "keys" }, keys.map(([kind, words]) => el("span", { class: `key ${kind}` }, words)), simulated);
}

/** All observables, but for masks and what was set: times and controls, of which nothing is predicted.
 * @returns what lays simulated data over them, {observable: values}, or takes them away, null. */
export function curves(target, model, answers) {
  const overlays = [], tables = [], few = [], masks = new Set(model.observables.map(({ name }) => `${name}_mask`));
  const specs = model.observables.filter(({ name, set }) => name in answers[0].json.observation && !masks.has(name) && !set);
  target.replaceChildren();
  for (const spec of specs) {
    const place = layout(spec), box = el("div", { class: "observable" }), over = (lay) => overlays.push((x) => lay(x && present(x, spec.name)));
    if (place.kind === "few") { few.push(numbersOf(spec, place, answers)); continue; }
    target.append(box);
    if (place.kind === "image") over(images(box, spec, place, answers));
    else if (place.kind === "panels") {
      place.panels.forEach((one) => over(panel(box, spec, place, one, answers)));
      tables.push(numbersOf(spec, place, answers));
    } else {
      const words = `${place.size.toLocaleString("en-US")} numbers of shape ${spec.shape.join(" × ")}, which this page does not draw.`;
      box.append(el("p", { class: "caption" }, `${named(spec.label || spec.name, spec.unit)}: ${words}`));
    }
  }
  target.append(keysOf(answers, specs), ...few);
  if (tables.length) target.append(el("details", {}, el("summary", {}, "The data as a table"), ...tables));
  return (x) => { overlays.forEach((lay) => lay(x)); target.querySelector("#simulated").hidden = !x; };
}
