// A run that goes on: its stage, how far it is, seconds left, losses; from Server-Sent Events.
import { colour, font, plot } from "./curves.js";
import { tick } from "./draws.js";
import { $, el, models, request } from "./service.js";

const SILENT = 30, AGAIN = 3000;

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const total = Math.round(seconds);
  return total < 3600 ? `${Math.floor(total / 60)} min ${total % 60} s` : `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
}

/** Reads events, each as [kind, data], until the stream ends. */
async function* events(name, signal) {
  const reader = (await request(`${models(name)}/events`, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
      if (lines.data) yield [lines.event || "message", JSON.parse(lines.data)];
    }
  }
}

/** The section of a run that goes on.
 * @param ready whether the run can be asked: what ended then is not told.
 * @param changed is called when a stage begins or the run is over, for there may be something to ask then.
 * @returns what ends it. */
export function watch(name, ready, changed) {
  const own = new AbortController(), box = $("live");
  let run = null, drawn = null;

  function take([kind, one]) {
    if (kind === "pulse") { if (run) run.silent = one.silent; return; }
    if (one.event === "run") run = { title: one.title, command: one.command, stages: [], losses: [], reached: null, silent: 0, ended: null };
    if (!run) return;
    const last = run.stages[run.stages.length - 1];
    run.silent = 0;
    if (["stage", "rest", "done", "stopped"].includes(one.event) && last && last.took === undefined) last.took = one.at - last.at;
    if (one.event === "stage") { run.stages.push({ name: one.stage, at: one.at }); run.reached = null; }
    if (one.event === "reached") run.reached = one;
    if (one.event === "over") run.reached = null;
    if (one.event === "loss") { if (run.losses.length && one.epoch <= run.losses[run.losses.length - 1].epoch) run.losses = []; run.losses.push(one); }
    if (one.event === "done" || one.event === "stopped") run.ended = one;
    if (["stage", "done", "stopped"].includes(one.event)) run.news = true;
  }

  function show() {
    if (!run || (ready() && (run.ended || run.silent > SILENT))) { box.hidden = true; return; }
    const last = run.stages[run.stages.length - 1] || { name: "begins" }, dead = !run.ended && run.silent > SILENT, far = run.reached;
    const count = far && `${far.done.toLocaleString("en-US")} of ${far.total.toLocaleString("en-US")} ${far.unit}`;
    const left = far && far.left !== null && far.done < far.total ? `, about ${duration(far.left)} left` : "";
    const words = run.ended?.event === "done" ? "The run is done." : run.ended ? `Stopped in the stage “${last.name}”: ${run.ended.why}` :
      dead ? `No sign of life for ${duration(run.silent)}: the run was stopped in the stage “${last.name}”.` : `Running: ${last.name}${count ? `, ${count}${left}` : ""}`;
    const on = run.ended?.event === "done" ? null : el("p", { class: "next" }, run.title, run.ended || dead ? [". What goes on where it was: ", el("code", {}, run.command)] : "");
    const bar = far && !run.ended && !dead ? el("progress", { max: far.total, value: far.done, "aria-label": `${last.name}: ${count}` }) : null;
    const rows = run.stages.map((one) => el("tr", {}, el("th", { scope: "row" }, one.name), el("td", {}, one.took === undefined ? (dead ? "stopped" : "running") : one === last && run.ended?.event === "stopped" ? "stopped" : "done"), el("td", { class: "n" }, one.took === undefined ? "" : duration(one.took))));
    const stages = el("table", {}, el("thead", {}, el("tr", {}, ["stage", "state", "time"].map((one, k) => el("th", { scope: "col", class: k === 2 ? "n" : undefined }, one)))), el("tbody", {}, rows));
    box.hidden = false;
    box.className = `verdict live ${dead || run.ended?.event === "stopped" ? "amber" : ""}`;
    const losses = el("div", { class: "plot", role: "img", "aria-label": "Losses by epoch" }), open = box.querySelector("details")?.open ?? !ready();
    box.replaceChildren(el("p", { class: "headline" }, words), on ?? "", bar ?? "", el("details", { open }, el("summary", {}, "Stages and losses"), stages, losses));
    drawn = run.losses.length > 1 ? draw(losses) : null;
  }

  function draw(target) {
    const look = (label, more) => ({ stroke: colour("muted"), label, labelFont: font(12, "600"), font: font(11.5), labelSize: 20, size: 30, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, values: (_, all) => all.map(tick), ...more });
    const rows = run.losses, one = rows[rows.length - 1], lines = [["training", "train_loss", "orange"], ["validation", "validation_loss", "blue"]];
    target.before(el("p", { class: "keys" }, lines.map(([name, key, c]) => el("span", { class: `key ${c}` }, `${name} loss ${one[key] === null ? "–" : one[key].toFixed(3).replace("-", "−")}`))));
    const series = [{}, ...lines.map(([, , c]) => ({ stroke: colour(c), width: 1.6, points: { show: false } }))];
    return plot(target, 190, { series, padding: [8, 10, 0, 0], cursor: { show: false }, scales: { x: { time: false } }, axes: [look("epoch", { space: 60, values: (_, all) => all.map((one) => (Number.isInteger(one) ? tick(one) : "")) }), look(undefined, { size: 48, labelSize: 0, space: 28 })] },
      [rows.map((row) => row.epoch + 1), ...lines.map(([, key]) => rows.map((row) => row[key]))]);
  }

  async function go() {
    let due = 0;
    while (!own.signal.aborted) {
      try {
        for await (const event of events(name, own.signal)) {
          take(event);
          clearTimeout(due);
          due = setTimeout(() => { show(); if (run?.news) { run.news = false; changed(); } }, 50);
        }
      } catch (error) { if (error.name === "AbortError") return; }
      await new Promise((later) => setTimeout(later, AGAIN));
    }
  }
  go();
  return () => { own.abort(); drawn?.destroy(); box.hidden = true; box.replaceChildren(); };
}
