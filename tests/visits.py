"""A visit to the page of a service: the run it is about, and what a visitor does there and sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brief import briefly_trained

from sciinf import Flow, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.interfaces.figures.page import number
from sciinf.interfaces.run_events import line_of

X_SEEN = {"x": [0.2, 1.4, 1.9, 3.2, 3.8]}
SEEN = "x [m]\n0.2\n1.4\n1.9\n3.2\n3.8\n"
OTHER = "x [m]\n2.2\n1.1\n1.0\n-0.1\n-0.9\n"
EVIL = '<b title="x">\'&'
SIMULATOR = f"""
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(slope=(Normal(0.0, 1.0), "m/s"), offset=(Normal(0.0, 1.0), "m"))


def track(slope, offset, rng):
    return offset[:, None] + slope[:, None] * np.arange(5.0) + rng.normal(size=(len(slope), 5))


simulator = wrappers.numpy(track, prior, {{"x": Observable((5,), "m", dims=("time",))}}, vectorised=True)
simulator.labels = {{"slope": {EVIL!r}}}
"""
STAGES = ("look first", "simulate", "train")


def make_runs(folder: Path) -> Path:
    """A run that was answered, `line`, and one that trains, `young`."""
    (folder / "line.py").write_text(SIMULATOR)
    (folder / "seen.csv").write_text(SEEN)
    simulator, run = load_simulator(folder / "line.py"), folder / "line"
    store = simulate(simulator, run / "simulations", 1_000, seed=0)
    with briefly_trained(6):
        posterior = build_posterior(train(Flow(simulator.prior, simulator.observables), store, out=run / "fit"))
    found = calibrate(posterior, simulate(simulator, run / "calibration_simulations", 1_000, seed=1), out=run)
    query(posterior, X_SEEN, found, simulator=simulator, out=run, name="seen")
    (folder / "young").mkdir()
    events = [{"event": "run", "at": 0.0, "title": EVIL, "command": "sciinf infer"}]
    events += [{"event": "stage", "at": float(k), "stage": stage} for k, stage in enumerate(STAGES)]
    events += [{"event": "loss", "at": 3.0, "epoch": e, "train_loss": -e, "validation_loss": None} for e in range(9)]
    events.append({"event": "reached", "at": 3.0, "done": 9, "total": 30, "unit": "epochs", "left": 21.0})
    (folder / "young" / "events.jsonl").write_text("".join(map(line_of, events)))
    return folder


def drop(shown: Any, name: str, text: str) -> None:
    """Drop a file in the middle of the page."""
    shown.wait_for_selector("#drop", state="visible")
    script = (
        "([name, text]) => { const held = new DataTransfer(); held.items.add(new File([text], name)); return held; }"
    )
    held = shown.evaluate_handle(script, [name, text])
    shown.dispatch_event("footer", "drop", {"dataTransfer": held})


def answered(shown: Any, count: int = 1) -> None:
    """Wait until there are so many answers, with the checks by simulation."""
    shown.wait_for_selector(f"#verdicts > .verdict:nth-child({count})")
    shown.wait_for_selector("#verdicts .busy", state="detached")


def rows(shown: Any, where: str = "#tables .scroll:first-child") -> list[list[str]]:
    """The cells of a table, by row."""
    cells = "(found) => found.map((row) => [...row.children].map((one) => one.innerText.trim()))"
    return shown.locator(f"{where} tbody tr").evaluate_all(cells)


def set_level(shown: Any, level: int) -> float:
    """Move the slider of the level; milliseconds until the numbers are there."""
    script = """(level) => { const slider = document.getElementById('level'), before = performance.now();
        slider.value = level; slider.dispatchEvent(new Event('input')); return performance.now() - before; }"""
    return shown.evaluate(script, level)


def ends(interval: tuple[float, float], middle: float, unit: str) -> str:
    return f"{number(interval[0], middle - interval[0])} to {number(interval[1], interval[1] - middle)} {unit}"
