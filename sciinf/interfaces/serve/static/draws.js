// Numbers of draws, as the library takes them: weighted quantiles, densities, overlap; and how numbers are printed.

const CELLS = 512;

function floats(text, Kind = Float32Array) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer, 0, Math.floor(bytes.length / Kind.BYTES_PER_ELEMENT));
}

/** Draws by column, with normalised weights; `sorted` keeps what was sorted once. */
export function decode(sent) {
  const all = sent.float64 ? floats(sent.float64, Float64Array) : floats(sent.float32), width = sent.names.length, count = sent.count;
  const columns = sent.names.map((_, d) => Float64Array.from({ length: count }, (_, i) => all[i * width + d]));
  let weights = new Float64Array(count).fill(1 / count);
  if (sent.log_weights) {
    const logs = floats(sent.log_weights), most = logs.reduce((a, b) => Math.max(a, b), -Infinity);
    weights = Float64Array.from(logs, (one) => Math.exp(one - most));
    const sum = weights.reduce((a, b) => a + b, 0);
    weights = weights.map((one) => one / sum);
  }
  const ess = 1 / weights.reduce((a, b) => a + b * b, 0);
  const kept = { sorted: new Map(), own: new Map() }, discrete = { categories: sent.categories || {}, given: {} };
  return { names: sent.names, units: sent.units, count, columns, weights, ess, weighted: Boolean(sent.log_weights), ...discrete, ...kept };
}

/** A column's values and weights where it exists, which is everywhere unless some are NaN; `share` is the weight of these. */
export function own(draws, d) {
  if (!draws.own.has(d)) draws.own.set(d, existing(draws, d));
  return draws.own.get(d);
}

function existing({ columns, weights, ess, count }, d) {
  const at = Uint32Array.from(columns[d].keys()).filter((i) => !Number.isNaN(columns[d][i]));
  if (at.length === count) return { x: columns[d], w: weights, ess, share: 1, count };
  const share = at.reduce((sum, i) => sum + weights[i], 0), w = Float64Array.from(at, (i) => weights[i] / (share || 1));
  return { x: Float64Array.from(at, (i) => columns[d][i]), w, ess: 1 / w.reduce((a, b) => a + b * b, 0), share, count: at.length };
}

/** The draws that are drawn in pairs: where discrete parameters have their most probable values, without what does not
 * exist then; `given` has these values, and all draws where there are none. */
export function pictured(draws) {
  const at = Object.keys(draws.categories).map((name) => draws.names.indexOf(name)), sums = new Map();
  const key = (i) => at.map((d) => draws.columns[d][i]).join(" ");
  if (!at.length) return draws;
  for (let i = 0; i < draws.count; i++) sums.set(key(i), (sums.get(key(i)) || 0) + draws.weights[i]);
  const [best, share] = [...sums].reduce((a, b) => (b[1] > a[1] ? b : a)), rows = [...draws.columns[0].keys()].filter((i) => key(i) === best);
  const label = ({ values, labels }, value) => labels[values.indexOf(value)];
  const given = Object.fromEntries(Object.entries(draws.categories).map(([name, one], k) => [name, label(one, draws.columns[at[k]][rows[0]])])
    .filter(([, said]) => said !== undefined));
  const kept = [...draws.names.keys()].filter((d) => !at.includes(d) && !Number.isNaN(draws.columns[d][rows[0]]));
  const pick = (values) => Float64Array.from(rows, (i) => values[i]), weights = pick(draws.weights).map((one) => one / share);
  return { ...draws, names: kept.map((d) => draws.names[d]), units: kept.map((d) => draws.units[d]), count: rows.length,
    columns: kept.map((d) => pick(draws.columns[d])), weights, ess: 1 / weights.reduce((a, b) => a + b * b, 0), categories: {}, given, share,
    sorted: new Map(), own: new Map() };
}

function ordered(draws, d) {
  if (!draws.sorted.has(d)) {
    const { x: values, w } = own(draws, d), order = Uint32Array.from(values.keys());
    order.sort((a, b) => values[a] - values[b]);
    const middle = new Float64Array(values.length);
    let sum = 0;
    order.forEach((at, i) => { middle[i] = sum + 0.5 * w[at]; sum += w[at]; });
    draws.sorted.set(d, { values: Float64Array.from(order, (at) => values[at]), middle });
  }
  return draws.sorted.get(d);
}

/** The weighted quantile of a column where it exists, by the rule of the library's `Draws.quantile`; NaN where it never does. */
export function quantile(draws, d, q) {
  const { values, middle } = ordered(draws, d);
  let low = 0, high = values.length;
  while (low < high) { const at = (low + high) >> 1; if (middle[at] < q) low = at + 1; else high = at; }
  return values.length ? values[Math.min(low, values.length - 1)] : NaN;
}

export const interval = (draws, d, level) => [quantile(draws, d, (1 - level) / 2), quantile(draws, d, (1 + level) / 2)];

function moments(draws, d) {
  const { x, w } = own(draws, d);
  let mean = 0, square = 0;
  for (let i = 0; i < x.length; i++) mean += w[i] * x[i];
  for (let i = 0; i < x.length; i++) square += w[i] * (x[i] - mean) ** 2;
  return [mean, Math.sqrt(square)];
}

/** The range that holds all but a thousandth of the weight, with a little room; none beyond the outermost draws. */
export function limits(draws, d) {
  const [low, high] = [5e-4, 1 - 5e-4].map((q) => quantile(draws, d, q));
  if (!(high > low)) { const room = 0.5 * Math.abs(low) || 0.5; return [low - room, high + room]; }
  const room = 0.03 * (high - low);
  return [Math.max(low - room, quantile(draws, d, 0)), Math.min(high + room, quantile(draws, d, 1))];
}

function blurred(mass, width) {
  const reach = Math.min(Math.ceil(4 * width), mass.length - 1);
  const kernel = Float64Array.from({ length: reach + 1 }, (_, k) => Math.exp(-0.5 * (k / width) ** 2));
  const sum = kernel.reduce((a, b) => a + 2 * b, -1), found = new Float64Array(mass.length), last = mass.length - 1;
  const at = (i) => mass[i < 0 ? -1 - i : i > last ? 2 * last + 1 - i : i];
  for (let i = 0; i < mass.length; i++) {
    let total = mass[i];
    for (let k = 1; k <= reach; k++) total += kernel[k] * (at(i - k) + at(i + k));
    found[i] = total / sum;
  }
  return found;
}

/** A column's density, where it exists, on a grid over a window, reflected at its ends so that none leaks over a bound. */
export function density(draws, d, [low, high]) {
  const cell = (high - low) / CELLS, mass = new Float64Array(CELLS), { x, w, ess } = own(draws, d);
  for (let i = 0; i < x.length; i++) {
    const at = Math.floor((x[i] - low) / cell);
    if (at >= 0 && at < CELLS) mass[at] += w[i];
    else if (x[i] === high) mass[CELLS - 1] += w[i];
  }
  const spread = Math.min(moments(draws, d)[1], (quantile(draws, d, 0.75) - quantile(draws, d, 0.25)) / 1.35) || moments(draws, d)[1];
  const width = (1.06 * Math.min(spread, high - low) * ess ** -0.2) / cell;
  const smooth = blurred(mass, Math.min(Math.max(width, 1), 0.12 * CELLS));
  return { x: Float64Array.from({ length: CELLS }, (_, k) => low + (k + 0.5) * cell), y: smooth.map((one) => one / cell) };
}

/** How much two marginals have in common, from 0 to 1, and by how many of their sds the second lies above the first. */
export function compared(first, a, second, b) {
  const [p, q] = [limits(first, a), limits(second, b)], window = [Math.min(p[0], q[0]), Math.max(p[1], q[1])];
  const [f, g] = [density(first, a, window), density(second, b, window)];
  const common = f.y.reduce((sum, one, k) => sum + Math.min(one, g.y[k]), 0) * (f.x[1] - f.x[0]);
  const [[m, s], [n, t]] = [moments(first, a), moments(second, b)];
  return { overlap: Math.min(Math.max(common, 0), 1), shift: (n - m) / Math.hypot(s, t) };
}

/** The correlation of two columns. */
export function correlation(draws, a, b) {
  const [[m, s], [n, t]] = [moments(draws, a), moments(draws, b)];
  let sum = 0;
  for (let i = 0; i < draws.count; i++) sum += draws.weights[i] * (draws.columns[a][i] - m) * (draws.columns[b][i] - n);
  return sum / (s * t);
}

// --- as they are printed ---

const raised = (power) => String(power).replace(/[-\d]/g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);

/** A number to two significant digits of a width; "–" where it is not finite. */
export function number(value, width) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0 && !width) return "0";
  const scale = width > 0 && Number.isFinite(width) ? width : Math.abs(value) / 100;
  const places = 1 - Math.floor(Math.log10(scale)), largest = Math.floor(Math.log10(Math.max(Math.abs(value), scale)));
  if (largest >= 7 || places > 6) {
    return `${(value / 10 ** largest).toFixed(Math.min(Math.max(largest + places, 0), 100))}×10${raised(largest)}`.replace("-", "−");
  }
  const rounded = places < 0 ? Math.round(value * 10 ** places) / 10 ** places : value;
  const text = rounded.toLocaleString("en-US", { minimumFractionDigits: Math.max(places, 0), maximumFractionDigits: Math.max(places, 0) });
  return (Number(text.replaceAll(",", "")) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A tick of an axis. */
export function tick(value) {
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)) + 1e-9);
  if (size > -4 && size < 6) return String(Number(value.toPrecision(8))).replace("-", "−");
  const lead = Number((value / 10 ** size).toPrecision(8));
  return `${lead === 1 ? "" : `${lead}×`.replace("-", "−")}10${raised(size)}`;
}

/** What is taken off the ticks of an axis over a window whose numbers differ only in late digits; 0 where nothing is. */
export function offsetOf([low, high]) {
  const width = high - low, largest = Math.max(Math.abs(low), Math.abs(high));
  if (!(width > 0) || largest < 1e3 * width || (largest < 1e4 && largest < 1e4 * width)) return 0;
  const step = 10 ** (Math.floor(Math.log10(width)) + 2);
  return Number((Math.trunc((low + high) / 2 / step) * step).toPrecision(15));
}

/** Ticks of an axis, with its offset taken off. */
export function ticks(values, from = 0) {
  if (!from) return values.map(tick);
  const near = 1e-4 * Math.abs(values[values.length - 1] - values[0]);
  return values.map((one) => (Math.abs(one - from) <= near ? "0" : tick(Number((one - from).toPrecision(5)))));
}

/** A name with what is taken off its axis: "t0 − 2,450,000". */
export function less(name, from) {
  if (!from) return name;
  const size = Math.abs(from), plain = size >= 1e-4 && size < 1e15;
  return `${name} ${from > 0 ? "−" : "+"} ${plain ? size.toLocaleString("en-US", { maximumFractionDigits: 12 }) : tick(size)}`;
}

/** Significant digits that tell numbers of a spread apart, `least` where they differ in the first. */
export function digitsOf(values, least) {
  let [low, high] = [Infinity, -Infinity];
  for (const one of values) if (Number.isFinite(one)) { low = Math.min(low, one); high = Math.max(high, one); }
  const ratio = Math.max(Math.abs(low), Math.abs(high)) / (high - low);
  return Number.isFinite(ratio) && ratio > 1 ? Math.min(least + Math.floor(Math.log10(ratio)), 15) : least;
}

/** A unit as it is printed: "km s⁻¹ Mpc⁻¹" for "km / (s Mpc)"; as it stands where it is of another form. */
export function unit(text) {
  if (!text) return "";
  const [above, below = "", ...more] = text.split("/").map((part) => part.trim().replace(/^\((.*)\)$/, "$1"));
  const parts = (side, sign) => side.split(/[\s*]+/).filter((one) => one && one !== "1").map((one) => {
    const found = /^([^\d\s^(){}.+-]+)(?:\^|\*\*)?\(?([+-]?\d+)?\)?$/.exec(one);
    return found && { name: found[1], power: sign * Number(found[2] || 1) };
  });
  const found = [...parts(above, 1), ...parts(below, -1)];
  if (more.length || !found.length || found.includes(null)) return text;
  return found.map(({ name, power }) => name + (power === 1 ? "" : raised(power))).join(" ");
}

export const percent = (share) => `${Number((100 * share).toPrecision(6))}%`;
export const named = (name, of) => (unit(of) ? `${name} [${unit(of)}]` : name);
