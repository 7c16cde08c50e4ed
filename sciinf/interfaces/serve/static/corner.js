// The posterior of pairs of parameters, on a canvas: regions of highest density, and densities on the diagonal.
import { COLOURS, colour, faint, font, joint, priorAt } from "./curves.js";
import { density, less, limits, named, offsetOf, ticks } from "./draws.js";

const CELLS = 72, INNER = 0.5;

/** Ticks at round numbers, as many as there is room for. */
function places(low, high, most) {
  const rough = (high - low) / most, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * size).find((one) => one >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(15)));
  return found;
}

/** Mass on a grid, blurred by a kernel of the draws' own shape, so that a narrow ridge stays narrow. */
function grid(draws, a, b, [across, up]) {
  const x = draws.columns[a], y = draws.columns[b], w = draws.weights, mass = new Float64Array(CELLS * CELLS);
  const [dx, dy] = [across, up].map(([low, high]) => (high - low) / CELLS);
  let [mx, my, xx, yy, xy] = [0, 0, 0, 0, 0];
  for (let i = 0; i < draws.count; i++) { mx += w[i] * x[i]; my += w[i] * y[i]; }
  for (let i = 0; i < draws.count; i++) {
    const [p, q] = [(x[i] - mx) / dx, (y[i] - my) / dy];
    const [c, r] = [Math.floor((x[i] - across[0]) / dx), Math.floor((y[i] - up[0]) / dy)];
    xx += w[i] * p * p; yy += w[i] * q * q; xy += w[i] * p * q;
    if (c >= 0 && c < CELLS && r >= 0 && r < CELLS) mass[r * CELLS + c] += w[i];
  }
  const share = 0.64 * draws.ess ** (-1 / 3);
  [xx, yy, xy] = [Math.min(share * xx, 60) + 0.6, Math.min(share * yy, 60) + 0.6, share * xy];
  xy = Math.sign(xy) * Math.min(Math.abs(xy), 0.98 * Math.sqrt(xx * yy));
  const det = xx * yy - xy * xy, [rx, ry] = [Math.ceil(3 * Math.sqrt(xx)), Math.ceil(3 * Math.sqrt(yy))], kernel = [];
  let sum = 0;
  for (let r = -ry; r <= ry; r++) for (let c = -rx; c <= rx; c++) {
    const value = Math.exp((-0.5 * (yy * c * c - 2 * xy * c * r + xx * r * r)) / det);
    kernel.push([c, r, value]); sum += value;
  }
  const smooth = new Float64Array(CELLS * CELLS), back = (i) => (i < 0 ? -1 - i : i >= CELLS ? 2 * CELLS - 1 - i : i);
  mass.forEach((m, at) => {
    if (!m) return;
    const c0 = at % CELLS, r0 = (at - c0) / CELLS;
    for (const [c, r, value] of kernel) smooth[back(r0 + r) * CELLS + back(c0 + c)] += (m * value) / sum;
  });
  return { smooth, ordered: Float64Array.from(smooth).sort().reverse() };
}

/** The density at the edge of the region that holds a share. */
function edge({ ordered }, share) {
  let sum = 0;
  for (const one of ordered) { sum += one; if (sum >= share) return one; }
  return 0;
}

/** A region's picture: filled, with a line around it. */
function region(found, size, shares, name) {
  const canvas = new OffscreenCanvas(size, size), context = canvas.getContext("2d"), made = context.createImageData(size, size);
  const value = new Float64Array(size * size), scale = CELLS / size, { smooth } = found;
  for (let r = 0; r < size; r++) {
    const v = Math.min(Math.max((size - r - 0.5) * scale - 0.5, 0), CELLS - 1.001), r0 = Math.floor(v), fv = v - r0;
    for (let c = 0; c < size; c++) {
      const u = Math.min(Math.max((c + 0.5) * scale - 0.5, 0), CELLS - 1.001), c0 = Math.floor(u), fu = u - c0, at = r0 * CELLS + c0;
      const [low, high] = [at, at + CELLS].map((place) => (1 - fu) * smooth[place] + fu * smooth[place + 1]);
      value[r * size + c] = (1 - fv) * low + fv * high;
    }
  }
  const rgb = [1, 3, 5].map((k) => parseInt(colour(name).slice(k, k + 2), 16)), edges = shares.map((share) => edge(found, share));
  for (let i = 0; i < value.length; i++) {
    const [beside, above] = [value[i % size ? i - 1 : i + 1], value[i >= size ? i - size : i + size]];
    const slope = Math.hypot(value[i] - beside, value[i] - above) || 1e-300;
    let alpha = 0;
    edges.forEach((one, k) => {
      const away = (value[i] - one) / slope;
      alpha = Math.max(alpha, Math.min(Math.max(away + 0.5, 0), 1) * (k ? 0.42 : 0.18), k ? 0 : 0.9 * Math.max(0, 1 - Math.abs(away)));
    });
    made.data.set([...rgb, 255 * alpha], 4 * i);
  }
  context.putImageData(made, 0, 0);
  return canvas;
}

function cached(answer, key, make) {
  if (!answer.grids.has(key)) answer.grids.set(key, make());
  return answer.grids.get(key);
}

const at = (answer, name) => answer.pictured.names.indexOf(name);

function line(c, x, place, stroke, dash = []) {
  c.beginPath(); c.setLineDash(dash); c.strokeStyle = stroke;
  x.forEach((value, k) => c[k ? "lineTo" : "moveTo"](...place(value, k)));
  c.stroke(); c.setLineDash([]);
}

/** Densities of one parameter, the ends of the intervals, and the prior. */
function diagonal(c, answers, { name, prior, ends }, { x, y, side, window, along }) {
  const found = answers.map((one) => cached(one, `${name} ${window}`, () => density(one.pictured, at(one, name), window)));
  const most = 1.08 * Math.max(...found.map((one) => Math.max(...one.y))), up = (value) => y + side * (1 - value / most);
  found.forEach((one, i) => {
    c.lineWidth = 1.5;
    line(c, one.x, (value, k) => [along(value), up(one.y[k])], colour(COLOURS[i]));
    c.lineTo(along(one.x[one.x.length - 1]), y + side); c.lineTo(along(one.x[0]), y + side);
    c.fillStyle = faint(COLOURS[i], 0.16); c.fill();
    c.lineWidth = 1;
    for (const end of ends[i]) line(c, [y, y + side], (value) => [along(end), value], colour(COLOURS[i]), [3, 3]);
  });
  if (prior?.density.length) line(c, found[0].x, (value) => [along(value), up(priorAt(prior, value))], colour("muted"), [5, 3]);
}

function text(c, words, x, y, look = {}) {
  Object.assign(c, { fillStyle: colour("muted"), font: font(11.5), textAlign: "center", textBaseline: "top", ...look });
  c.fillText(words, x, y);
}

function nameOf(c, { label, unit }, from, x, y, side, look) {
  c.font = font(12, "600");
  let words = named(less(label, from), unit);
  while (words.length > 4 && c.measureText(words).width > side) words = `${words.slice(0, -2)}…`;
  text(c, words, x, y, { font: font(12, "600"), fillStyle: colour("ink"), ...look });
}

/** Draw it.
 * @param chosen names with what they are called, unit, prior and, for each answer, the ends of their interval. */
export function corner(canvas, answers, chosen, level) {
  const n = chosen.length, [left, below, gap] = [62, 46, 6], scale = devicePixelRatio || 1;
  const side = Math.floor(Math.min((canvas.parentElement.clientWidth - left - 8) / n - gap, 210)), few = side < 90 ? 1.5 : 3;
  const [w, h] = [left + n * (side + gap) + 8, n * (side + gap) + below], c = canvas.getContext("2d");
  Object.assign(canvas, { width: Math.round(w * scale), height: Math.round(h * scale) });
  Object.assign(canvas.style, { width: `${w}px`, height: `${h}px` });
  c.scale(scale, scale);
  const windows = chosen.map(({ name }) => joint(answers.map((one) => limits(one.pictured, at(one, name)))));
  const from = windows.map(offsetOf), told = (k) => {
    const found = places(...windows[k], few), words = ticks(found, from[k]);
    return found.map((value, i) => [value, words[i]]);
  };
  const share = (value, k) => (value - windows[k][0]) / (windows[k][1] - windows[k][0]);
  chosen.forEach((row, r) => chosen.slice(0, r + 1).forEach((column, k) => {
    const [x, y] = [left + k * (side + gap), r * (side + gap)], along = (value) => x + side * share(value, k);
    c.save(); c.beginPath(); c.rect(x, y, side, side); c.clip();
    if (r === k) diagonal(c, answers, row, { x, y, side, window: windows[r], along });
    else answers.forEach((one, i) => {
      const key = `${column.name} ${row.name} ${windows[k]} ${windows[r]}`;
      const found = cached(one, key, () => grid(one.pictured, at(one, column.name), at(one, row.name), [windows[k], windows[r]]));
      c.drawImage(region(found, Math.round(side * scale), [level, INNER], COLOURS[i]), x, y, side, side);
    });
    c.restore();
    c.lineWidth = 1; c.strokeStyle = colour("rule"); c.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
    if (r === n - 1) {
      for (const [value, words] of told(k)) text(c, words, Math.min(Math.max(along(value), x + 12), x + side - 12), y + side + 5);
      nameOf(c, column, from[k], x + side / 2, y + side + 24, side);
    }
    if (k > 0 || r === 0) return;
    const beside = { textAlign: "right", textBaseline: "middle" };
    for (const [value, words] of told(r)) text(c, words, x - 6, y + side * (1 - share(value, r)), beside);
    c.save(); c.translate(9, y + side / 2); c.rotate(-Math.PI / 2);
    nameOf(c, row, from[r], 0, 0, side, { textBaseline: "middle" }); c.restore();
  }));
}
