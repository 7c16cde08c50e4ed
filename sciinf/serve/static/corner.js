// The posterior of pairs of parameters, on a canvas: regions of highest density, and densities on the diagonal.
import { COLOURS, colour, faint, font, priorAt } from "./curves.js";
import { density, limits, named, tick } from "./draws.js";

const CELLS = 72, INNER = 0.5;

/** Ticks at round numbers, as many as there is room for. */
function ticks(low, high, most) {
  const rough = (high - low) / most, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * size).find((one) => one >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

/** Mass on a grid, blurred by a kernel of the draws' own shape, so that a narrow ridge stays narrow. */
function grid(draws, a, b, [across, up]) {
  const x = draws.columns[a], y = draws.columns[b], w = draws.weights, mass = new Float64Array(CELLS * CELLS);
  const [dx, dy] = [across, up].map(([low, high]) => (high - low) / CELLS);
  let [mx, my, xx, yy, xy] = [0, 0, 0, 0, 0];
  for (let i = 0; i < draws.count; i++) { mx += w[i] * x[i]; my += w[i] * y[i]; }
  for (let i = 0; i < draws.count; i++) {
    const [p, q] = [(x[i] - mx) / dx, (y[i] - my) / dy], [c, r] = [Math.floor((x[i] - across[0]) / dx), Math.floor((y[i] - up[0]) / dy)];
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
      value[r * size + c] = (1 - fv) * ((1 - fu) * smooth[at] + fu * smooth[at + 1]) + fv * ((1 - fu) * smooth[at + CELLS] + fu * smooth[at + CELLS + 1]);
    }
  }
  const rgb = [1, 3, 5].map((k) => parseInt(colour(name).slice(k, k + 2), 16)), edges = shares.map((share) => edge(found, share));
  for (let i = 0; i < value.length; i++) {
    const slope = Math.hypot(value[i] - (value[i - (i % size ? 1 : -1)] ?? 0), value[i] - (value[i - size] ?? value[i + size])) || 1e-300;
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

const cached = (answer, key, make) => { if (!answer.grids.has(key)) answer.grids.set(key, make()); return answer.grids.get(key); };

/** Draw it.
 * @param chosen names with what they are called, unit, prior and, for each answer, the ends of their interval. */
export function corner(canvas, answers, chosen, level) {
  const width = canvas.parentElement.clientWidth, n = chosen.length, [left, below] = [62, 46], gap = 6;
  const side = Math.floor(Math.min((width - left - 8) / n - gap, 210)), scale = devicePixelRatio || 1;
  const [w, h] = [left + n * (side + gap) + 8, n * (side + gap) + below];
  Object.assign(canvas, { width: Math.round(w * scale), height: Math.round(h * scale) });
  Object.assign(canvas.style, { width: `${w}px`, height: `${h}px` });
  const c = canvas.getContext("2d"), at = (answer, name) => answer.draws.names.indexOf(name);
  const windows = chosen.map(({ name }) => { const all = answers.map((one) => limits(one.draws, at(one, name))); return [Math.min(...all.map((r) => r[0])), Math.max(...all.map((r) => r[1]))]; });
  c.scale(scale, scale);
  c.lineWidth = 1;
  const few = side < 90 ? 1.5 : 3, text = (words, x, y, look) => { Object.assign(c, { fillStyle: colour("muted"), font: font(11.5), textAlign: "center", textBaseline: "top", ...look }); c.fillText(words, x, y); };
  chosen.forEach((row, r) => chosen.slice(0, r + 1).forEach((column, k) => {
    const [x, y] = [left + k * (side + gap), r * (side + gap)], along = (value) => x + (side * (value - windows[k][0])) / (windows[k][1] - windows[k][0]);
    c.save(); c.beginPath(); c.rect(x, y, side, side); c.clip();
    if (r === k) {
      const found = answers.map((one) => cached(one, `${row.name} ${windows[r]}`, () => density(one.draws, at(one, row.name), windows[r]))), most = 1.08 * Math.max(...found.flatMap((one) => Math.max(...one.y)));
      found.forEach((one, i) => diagonal(c, one, (value) => along(value), (value) => y + side * (1 - value / most), { base: y + side, name: COLOURS[i], ends: row.ends[i], top: y }));
      if (row.prior?.density.length) line(c, found[0].x, (value) => [along(value), y + side * (1 - priorAt(row.prior, value) / most)], colour("muted"), [5, 3]);
    } else answers.forEach((one, i) => {
      const found = cached(one, `${column.name} ${row.name} ${windows[k]} ${windows[r]}`, () => grid(one.draws, at(one, column.name), at(one, row.name), [windows[k], windows[r]]));
      c.drawImage(region(found, Math.round(side * scale), [level, INNER], COLOURS[i]), x, y, side, side);
    });
    c.restore();
    c.strokeStyle = colour("rule"); c.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
    if (r === n - 1) {
      ticks(...windows[k], few).forEach((value) => text(tick(value), Math.min(Math.max(along(value), x + 12), x + side - 12), y + side + 5));
      text(fitted(c, column, side), x + side / 2, y + side + 24, { font: font(12, "600"), fillStyle: colour("ink") });
    }
    if (k === 0 && r > 0) {
      ticks(...windows[r], few).forEach((value) => text(tick(value), x - 6, y + side * (1 - (value - windows[r][0]) / (windows[r][1] - windows[r][0])), { textAlign: "right", textBaseline: "middle" }));
      c.save(); c.translate(9, y + side / 2); c.rotate(-Math.PI / 2);
      text(fitted(c, row, side), 0, 0, { font: font(12, "600"), fillStyle: colour("ink"), textBaseline: "middle" }); c.restore();
    }
  }));
}

function fitted(c, { label, unit }, side) {
  c.font = font(12, "600");
  let words = named(label, unit);
  while (words.length > 4 && c.measureText(words).width > side) words = `${words.slice(0, -2)}…`;
  return words;
}

function line(c, x, place, stroke, dash = []) {
  c.beginPath(); c.setLineDash(dash); c.strokeStyle = stroke;
  x.forEach((value, k) => c[k ? "lineTo" : "moveTo"](...place(value, k)));
  c.stroke(); c.setLineDash([]);
}

function diagonal(c, { x, y }, along, up, { base, name, ends, top }) {
  c.lineWidth = 1.5;
  line(c, x, (value, k) => [along(value), up(y[k])], colour(name));
  c.lineTo(along(x[x.length - 1]), base); c.lineTo(along(x[0]), base); c.fillStyle = faint(name, 0.16); c.fill();
  c.lineWidth = 1;
  for (const end of ends) line(c, [top, base], (value) => [along(end), value], colour(name), [3, 3]);
}
