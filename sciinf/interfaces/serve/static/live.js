// A run that goes on: its stage, how far it is, seconds left, losses; from Server-Sent Events.
import { axis, colour, plot } from "./curves.js";
import { tick } from "./draws.js";
import { $, el, models, request, table } from "./service.js";

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
      const [data, kind] = ["data", "event"].map((name) => new RegExp(`^${name}: (.*)`, "m").exec(block)?.[1]);
      if (data) yield [kind || "message", JSON.parse(data)];
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
    if (one.event === "run") run = { title: one.title, command: one.command, stages: [], losses: [], reached: null, silent: 0, ended: null };
    if (!run) return;
    run.silent = kind === "pulse" ? one.silent : 0;
    if (kind === "pulse") return;
    const last = run.stages[run.stages.length - 1], before = run.losses[run.losses.length - 1];
    if (["stage", "rest", "done", "stopped"].includes(one.event) && last && last.took === undefined) last.took = one.at - last.at;
    if (one.event === "stage") run.stages.push({ name: one.stage, at: one.at });
    if (["stage", "over", "reached"].includes(one.event)) run.reached = one.event === "reached" ? one : null;
    if (one.event === "loss") run.losses = before && one.epoch <= before.epoch ? [one] : [...run.losses, one];
    if (["done", "stopped"].includes(one.event)) run.ended = one;
    if (["stage", "done", "stopped"].includes(one.event)) run.news = true;
  }

  /** What goes on, in a sentence, and whether the run stands still. */
  function said(last, count) {
    const { ended, reached: far, silent } = run, dead = !ended && silent > SILENT, at = `in the stage “${last.name}”`;
    if (ended) return ended.event === "done" ? ["The run is done.", false] : [`Stopped ${at}: ${ended.why}`, true];
    if (dead) return [`No sign of life for ${duration(silent)}: the run was stopped ${at}.`, true];
    const left = far && far.left !== null && far.done < far.total ? `, about ${duration(far.left)} left` : "";
    return [`Running: ${last.name}${count ? `, ${count}${left}` : ""}`, false];
  }

  function show() {
    if (!run || (ready() && (run.ended || run.silent > SILENT))) { box.hidden = true; return; }
    const { stages, reached: far } = run, last = stages[stages.length - 1] || { name: "begins" };
    const count = far && `${far.done.toLocaleString("en-US")} of ${far.total.toLocaleString("en-US")} ${far.unit}`;
    const [words, still] = said(last, count);
    const goes = still ? [". What goes on where it was: ", el("code", {}, run.command)] : "";
    const bar = far && !still && !run.ended ? el("progress", { max: far.total, value: far.done, "aria-label": `${last.name}: ${count}` }) : "";
    const state = (one) => (still && one === last ? "stopped" : one.took === undefined ? "running" : "done");
    const rows = stages.map((one) => [one.name, state(one), one.took === undefined ? "" : duration(one.took)]);
    const losses = el("div", { class: "plot", role: "img", "aria-label": "Losses by epoch" });
    const open = box.querySelector("details")?.open ?? !ready();
    const inside = [table("Stages", ["stage", "state", "time"], rows, { words: [1] }), losses];
    box.hidden = false;
    box.className = `verdict live ${still ? "amber" : ""}`;
    box.replaceChildren(el("p", { class: "headline" }, words), el("p", { class: "next" }, run.title, goes), bar,
      el("details", { open }, el("summary", {}, "Stages and losses"), inside));
    drawn?.destroy();
    drawn = run.losses.length > 1 ? draw(losses) : null;
  }

  function draw(target) {
    const rows = run.losses, last = rows[rows.length - 1], grid = { stroke: colour("grid"), width: 1 };
    const lines = [["training", "train_loss", "orange"], ["validation", "validation_loss", "blue"]];
    const digits = (one) => (one === null ? "–" : one.toFixed(3).replace("-", "−"));
    const key = ([name, of, c]) => el("span", { class: `key ${c}` }, `${name} loss ${digits(last[of])}`);
    target.before(el("p", { class: "keys" }, lines.map(key)));
    const series = [{}, ...lines.map(([, , c]) => ({ stroke: colour(c), width: 1.6, points: { show: false } }))];
    const whole = (_, all) => all.map((one) => (Number.isInteger(one) ? tick(one) : ""));
    const axes = [axis("epoch", { grid, space: 60, values: whole }), axis(undefined, { grid, size: 48, labelSize: 0, space: 28 })];
    const options = { series, padding: [8, 10, 0, 0], cursor: { show: false }, scales: { x: { time: false } }, axes };
    return plot(target, 190, options, [rows.map((row) => row.epoch + 1), ...lines.map(([, of]) => rows.map((row) => row[of]))]);
  }

  async function news() {
    show();
    if (!run?.news) return;
    run.news = false;
    await changed();
    show();
  }

  async function go() {
    let due = 0;
    while (!own.signal.aborted) {
      try {
        for await (const event of events(name, own.signal)) {
          take(event);
          clearTimeout(due);
          due = setTimeout(news, 50); // after all that came together
        }
      } catch (error) { if (error.name === "AbortError") return; }
      await new Promise((later) => setTimeout(later, AGAIN));
    }
  }
  go();
  return () => { own.abort(); drawn?.destroy(); box.hidden = true; box.replaceChildren(); };
}
