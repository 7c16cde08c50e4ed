// Densities of parameters, and data with what is predicted, by uPlot; in the colours of the style sheet.
import uPlot from "./uPlot.esm.js";
import { density, limits, named, tick, unit } from "./draws.js";
import { el } from "./service.js";

export const COLOURS = ["blue", "orange"];
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const faint = (name, share) => colour(name) + Math.round(255 * share).toString(16).padStart(2, "0");
export const font = (size = 12, weight = "") => `${weight} ${size}px ${colour("sans")}`;
const MOST_PANELS = 8, MOST_ROWS = 200;

function axis(label, more = {}) {
  return { stroke: colour("muted"), label, labelFont: font(12, "600"), font: font(11.5), labelSize: 20, labelGap: 0, size: 30, gap: 4,
    grid: { show: false }, ticks: { stroke: colour("rule"), width: 1, size: 4 }, values: (_, splits) => splits.map(tick), ...more };
}

/** A plot as wide as its box, which follows it. */
export function plot(box, height, options, data) {
  const made = new uPlot({ width: Math.max(box.clientWidth, 120), height, legend: { show: false }, ...options }, data, box);
  new ResizeObserver(() => { if (box.clientWidth > 0 && box.clientWidth !== made.width) made.setSize({ width: box.clientWidth, height }); }).observe(box);
  return made;
}

function between(grid, values, x) {
  if (x < grid[0] || x > grid[grid.length - 1]) return 0;
  let k = 1;
  while (k < grid.length - 1 && grid[k] < x) k += 1;
  return values[k - 1] + ((values[k] - values[k - 1]) * (x - grid[k - 1])) / (grid[k] - grid[k - 1]);
}

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
  const box = el("div", { class: "plot", role: "img", "aria-label": said() });
  const at = answers.map((one) => one.draws.names.indexOf(name)), ranges = answers.map((one, k) => limits(one.draws, at[k]));
  let window = [Math.min(...ranges.map((r) => r[0])), Math.max(...ranges.map((r) => r[1]))];
  if (whole && prior) window = [Math.min(window[0], prior.low), Math.max(window[1], prior.high)];
  const found = answers.map((one, k) => density(one.draws, at[k], window)), x = Array.from(found[0].x);
  const series = [{}, ...answers.map((_, k) => ({ stroke: colour(COLOURS[k]), width: 1.5, fill: faint(COLOURS[k], 0.16), points: { show: false } }))];
  const data = [x, ...found.map((one) => Array.from(one.y))];
  if (prior?.density.length) {
    series.push({ stroke: colour("muted"), width: 1.2, dash: [5, 3], points: { show: false } });
    data.push(x.map((one) => priorAt(prior, one)));
  }
  const options = { padding: [6, 14, 0, 14], cursor: { show: false }, series, axes: [axis(named(label, answers[0].draws.units[at[0]])), { show: false }],
    scales: { x: { time: false, range: () => window }, y: { range: (_, __, most) => [0, 1.05 * most] } },
    hooks: { draw: [(u) => ends().forEach((pair, k) => dashed(u, pair, COLOURS[k]))] } };
  let made;
  return { box, draw: () => { made = plot(box, 150, options, data); }, update: () => { made.redraw(); box.setAttribute("aria-label", said()); } };
}

// --- data ---

const flat = (values) => (Array.isArray(values) ? values.flat(Infinity) : [values]);
const numeric = (values) => values && values.every((one) => typeof one === "number");

/** Where the numbers of an observable stand: panels of numbers along an axis, with the index of each number. */
function layout(spec) {
  const { shape, dims = [], coordinates } = spec, size = shape.reduce((a, b) => a * b, 1);
  const long = shape.map((n, k) => [n, k]).filter(([n]) => n > 1).map(([, k]) => k);
  if (size <= 3 || long.length > 2) return { kind: long.length > 2 ? "many" : "few", size };
  const time = long.find((k) => dims[k] === "time"), [a, b] = long;
  const along = long.length === 1 ? a : time ?? (shape[a] >= shape[b] ? a : b), across = long.find((k) => k !== along);
  if (across !== undefined && (shape[across] > MOST_PANELS || ["x", "y", "row", "column"].includes(dims[across]))) return { kind: "image", size, rows: shape[a], columns: shape[b] };
  const stride = (k) => shape.slice(k + 1).reduce((x, y) => x * y, 1), along_ = (k) => (coordinates || {})[dims[k]] || {};
  const panels = Array.from({ length: across === undefined ? 1 : shape[across] }, (_, p) => ({
    title: across === undefined ? "" : String((along_(across).values || [])[p] ?? `${dims[across] || "column"} ${p}`),
    index: Array.from({ length: shape[along] }, (_, i) => i * stride(along) + (across === undefined ? 0 : p * stride(across))),
  }));
  const { values: places, unit: of } = along_(along), dim = dims[along] || "index";
  const x = numeric(places) ? places : panels[0].index.map((_, i) => i);
  return { kind: "panels", size, panels, x, names: places && !numeric(places) ? places.map(String) : null, label: places ? named(dim, of) : dim === "index" ? dim : `${dim} (index)` };
}

function bandOf(answer, name) {
  const found = answer.json.predictive && answer.json.predictive[name];
  if (!found) return null;
  const rows = found.values.map(flat), at = (q) => rows[found.quantiles.findIndex((one) => Math.abs(one - q) < 1e-9)];
  return { low: rows[0], high: rows[rows.length - 1], middle: at(0.5), inner: at(0.25) && at(0.75) ? [at(0.25), at(0.75)] : null,
    share: found.quantiles[rows.length - 1] - found.quantiles[0] };
}

function strangeAt(answer, name, shape) {
  const found = new Set();
  for (const one of (answer.json.strange || []).filter((s) => s.observable === name)) {
    const at = flat(one.index);
    found.add(at.reduce((sum, i, k) => sum * shape[k] + i, 0));
  }
  return found;
}

const seen = (answer, name) => {
  const values = flat(answer.json.observation[name]), mask = answer.json.observation[`${name}_mask`];
  return mask === undefined ? values : values.map((one, i) => (flat(mask)[i] ? one : null));
};

/** One panel: bands, medians, data, strange values, and last the simulated curve, which comes later. */
function panel(box, spec, place, { index, title }, answers) {
  const order = place.x.map((_, i) => i).sort((a, b) => place.x[a] - place.x[b]), pick = (values) => order.map((i) => {
    const value = values[index[i]];
    return value === null || !Number.isFinite(value) || (spec.scale === "log" && !(value > 0)) ? null : value;
  });
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
    const values = seen(answer, spec.name), strange = strangeAt(answer, spec.name, spec.shape), name = answers.length > 1 ? COLOURS[k] : "ink";
    const dots = { show: true, size: index.length > 150 ? 3.5 : 5.5, fill: colour(name), stroke: colour(name), width: 0 };
    add(pick(values), { stroke: colour(name), paths: () => null, points: dots });
    if (strange.size) {
      const ring = { show: true, size: 12, fill: "transparent", stroke: colour("vermilion"), width: 2 };
      add(pick(values.map((one, i) => (strange.has(i) ? one : null))), { paths: () => null, points: ring });
    }
  });
  const last = add(data[0].map(() => null), { stroke: colour("purple"), width: 2, dash: [6, 3], points: { show: index.length < 9, fill: colour("purple") } });
  const names = place.names && ((_, splits) => splits.map((one) => (Number.isInteger(one) ? place.names[one] ?? "" : "")));
  const y = axis(named(spec.label || spec.name, spec.unit), { size: 52, labelSize: 22, grid: { stroke: colour("grid"), width: 1 } });
  const x = axis(place.label, names ? { values: names, space: 70 } : {});
  const scales = { x: { time: false }, y: spec.scale === "log" ? { distr: 3 } : {} };
  if (title) box.append(el("p", { class: "panel" }, title));
  const target = box.appendChild(el("div", { class: "plot", role: "img", "aria-label": `${spec.label || spec.name}${title ? `, ${title}` : ""}: data, and what the posterior predicts; the numbers are in the table below.` }));
  const made = plot(target, 230, { padding: [10, 12, 0, 0], series, bands, axes: [x, y], scales, cursor: { y: false, points: { show: false } } }, data);
  return (values) => { data[last] = values ? pick(values) : data[0].map(() => null); made.setData(data); };
}

function image(title, values, columns, [low, high]) {
  const rows = values.length / columns, canvas = el("canvas", { width: columns, height: rows, role: "img", "aria-label": `${title}, from ${tick(low)} to ${tick(high)}` });
  const context = canvas.getContext("2d"), made = context.createImageData(columns, rows);
  values.forEach((value, i) => {
    const s = value === null ? 0 : Math.min(Math.max((value - low) / (high - low || 1), 0), 1);
    made.data.set([20 + 235 * s, 30 + 215 * s ** 1.2, 70 + 130 * Math.sin(Math.PI * Math.min(s, 0.9)), value === null ? 0 : 255], 4 * i);
  });
  context.putImageData(made, 0, 0);
  return el("figure", { class: "image" }, canvas, el("figcaption", {}, title));
}

function images(box, spec, { columns }, answers) {
  const all = answers.flatMap((answer) => {
    const band = bandOf(answer, spec.name), of = answers.length > 1 ? ` of ${answer.json.name}` : "";
    return [[`observed${of}`, seen(answer, spec.name)], ...(band && band.middle ? [[`predicted, median${of}`, band.middle]] : [])];
  });
  const shown = (one) => (one === null ? null : spec.scale === "log" ? Math.log10(Math.max(one, 1e-30)) : one);
  const values = all[0][1].map(shown).filter((one) => one !== null), range = [Math.min(...values), Math.max(...values)];
  const words = `${named(spec.label || spec.name, spec.unit)}, from ${tick(spec.scale === "log" ? Number((10 ** range[0]).toPrecision(3)) : Number(range[0].toPrecision(3)))} (dark) to ${tick(spec.scale === "log" ? Number((10 ** range[1]).toPrecision(3)) : Number(range[1].toPrecision(3)))} (light)`;
  const grid = box.appendChild(el("div", { class: "images" }));
  const draw = (more) => grid.replaceChildren(...[...all, ...more].map(([title, one]) => image(title, one.map(shown), columns, range)));
  draw([]);
  box.append(el("p", { class: "caption" }, words));
  return (simulated) => draw(simulated ? [["simulated", simulated]] : []);
}

function numbersOf(spec, place, answers) {
  const where = place.kind === "panels" ? place.panels.flatMap(({ index, title }) => index.map((at, i) => [at, [title, place.names ? place.names[i] : tick(place.x[i])].filter(Boolean).join(", ")])) : Array.from({ length: place.size }, (_, i) => [i, place.size > 1 ? String(i) : "value"]);
  const shown = where.slice(0, MOST_ROWS), parts = answers.map((one) => [seen(one, spec.name), bandOf(one, spec.name), one.json.name]);
  const digits = (one) => (one === null || one === undefined ? "–" : String(Number(one.toPrecision(4))).replace("-", "−"));
  const head = [place.label || "number", ...parts.flatMap(([, band, name]) => [`observed${parts.length > 1 ? `, ${name}` : ""}`, ...(band ? [`predicted, ${Math.round(100 * band.share)}%`] : [])])];
  const rows = shown.map(([at, name]) => el("tr", {}, el("th", { scope: "row" }, name), parts.flatMap(([values, band]) => [el("td", { class: "n" }, digits(values[at])), band && el("td", { class: "n" }, `${digits(band.low[at])} to ${digits(band.high[at])}`)])));
  const more = where.length > shown.length ? `; the first ${MOST_ROWS} of ${where.length} numbers` : "";
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Numbers of ${spec.name}` }, el("table", {}, el("caption", {}, `${named(spec.label || spec.name, spec.unit)}${more}`), el("thead", {}, el("tr", {}, head.map((one, k) => el("th", { scope: "col", class: k ? "n" : undefined }, one)))), el("tbody", {}, rows)));
}

/** All observables.
 * @returns what lays simulated data over them, {observable: values}, or takes them away, null. */
export function curves(target, model, answers) {
  const overlays = [], tables = [], few = [];
  target.replaceChildren();
  const specs = model.observables.filter((spec) => spec.name in answers[0].json.observation && !(spec.name.endsWith("_mask") && model.observables.some((one) => `${one.name}_mask` === spec.name)));
  for (const spec of specs) {
    const place = layout(spec), box = el("div", { class: "observable" });
    if (place.kind === "few") { few.push(numbersOf(spec, place, answers)); continue; }
    target.append(box);
    if (place.kind === "panels") place.panels.forEach((one) => { const lay = panel(box, spec, place, one, answers); overlays.push((x) => lay(x && flat(x[spec.name]))); });
    else if (place.kind === "image") { const lay = images(box, spec, place, answers); overlays.push((x) => lay(x && flat(x[spec.name]))); }
    else box.append(el("p", { class: "caption" }, `${spec.label || spec.name}: ${place.size.toLocaleString("en-US")} numbers of shape ${spec.shape.join(" × ")}${spec.unit ? `, in ${unit(spec.unit)}` : ""}, which this page does not draw.`));
    if (place.kind === "panels") tables.push(numbersOf(spec, place, answers));
  }
  const predicted = answers.map((one) => specs.map((spec) => bandOf(one, spec.name)).find(Boolean)).find(Boolean);
  const keys = answers.length > 1 ? answers.map((one, k) => [`dots ${k ? "second" : "first"}`, `observed, ${one.json.name}`]) : [["dots", "observed"]];
  if (predicted) keys.push(["region", `predicted, ${Math.round(100 * predicted.share)}%${predicted.inner ? " and 50%" : ""}`]);
  if (answers.some((one) => (one.json.strange || []).length)) keys.push(["ring", "strange, given the other data"]);
  target.append(el("p", { class: "keys" }, keys.map(([kind, words]) => el("span", { class: `key ${kind}` }, words)), el("span", { class: "key before", id: "simulated", hidden: true }, "simulated")), ...few);
  if (tables.length) target.append(el("details", {}, el("summary", {}, "The data as a table"), ...tables));
  return (x) => { overlays.forEach((lay) => lay(x)); target.querySelector("#simulated").hidden = !x; };
}
