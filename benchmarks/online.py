"""Training while simulating against training on stored simulations, for the same wall time.

    python benchmarks/online.py              SLCP and Lotka-Volterra, 100,000 stored simulations
    python benchmarks/online.py --quick      10,000 stored simulations

The stored training has the default recipe, which stops early; simulating its rows is not counted. The online one has
the same recipe but for the number of epochs, which is chosen before it starts, from the speed of a short training, so
that it takes no longer, simulations included. NLL: mean of -log q(theta | x) over 5,000 fresh simulations.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reporting import arguments, check, finish

from sciinf import Flow, Recipe, Simulator, Store, build_posterior, load_simulator, simulate, train
from sciinf.core import Fit
from sciinf.engine.online import Simulated, measured_reuse

SIMULATORS = Path(__file__).parent.parent / "simulators" / "benchmarks"
HELD_OUT = 5_000
BUFFER = 16_384
MARGIN = 0.9  # of the stored training's time is planned for, as speed varies
TRIAL = 6  # epochs whose speed is measured


@dataclass(frozen=True)
class Timed:
    """A fit and what it took."""

    fit: Fit
    wall: float
    cpu: float


def main() -> None:
    """Run the comparison."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["slcp", "lotka_volterra"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, checks = [], []
    for task in options.tasks:
        simulator = load_simulator(SIMULATORS / f"{task}.py")
        pair = compare(simulator, 10_000 if options.quick else 100_000, options.seed)
        for row in pair:
            rows.append({"task": task, **row})
            print(json.dumps(rows[-1]), flush=True)
        stored, online = pair
        checks.append(check(f"{task}: online wall time / stored", online["wall s"] / stored["wall s"], 1.0))
        checks.append(check(f"{task}: online NLL above stored", online["NLL"] - stored["NLL"], 0.0))
    finish(rows, checks, options.json)


def compare(simulator: Simulator, budget: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One row for the stored training, one for the online one."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = simulate(simulator, folder / "simulations", budget, seed=seed, progress=False)
        fresh = simulate(simulator, folder / "held_out", HELD_OUT, seed=seed + 1_000, progress=False)
        stored = timed(simulator, store, folder / "stored", Recipe(), seed)
        online = within(simulator, stored.wall, seed, folder)
        return row("stored", stored, fresh), row("online", online, fresh)


def within(simulator: Simulator, wall: float, seed: int, folder: Path) -> Timed:
    """An online training that takes no longer than `wall` seconds, as far as its speed can be known beforehand."""
    reuse = measured_reuse(simulator, flow(simulator, seed), folder / "reuse.json", seed=seed)
    source = Simulated(simulator, seed=seed, buffer=BUFFER, reuse=reuse)
    trial = timed(simulator, source, folder / "trial", Recipe(epochs=TRIAL, patience=TRIAL), seed)
    before, last = trial.fit.record["history"][-2:]
    epoch = last["seconds"] / (last["epoch"] - before["epoch"])
    fixed = trial.wall - TRIAL * epoch  # setting up, the first buffer, the validation set, writing the fit
    epochs = max(TRIAL, math.floor((MARGIN * wall - fixed) / epoch))
    source = Simulated(simulator, seed=seed, buffer=BUFFER, reuse=reuse)
    return timed(simulator, source, folder / "online", Recipe(epochs=epochs, patience=epochs), seed)


def timed(simulator: Simulator, rows: Store | Simulated, out: Path, recipe: Recipe, seed: int) -> Timed:
    """Train on rows."""
    wall, cpu = time.perf_counter(), time.process_time()
    fit = train(flow(simulator, seed), rows, out, recipe=recipe, seed=seed)
    return Timed(fit, time.perf_counter() - wall, time.process_time() - cpu)


def flow(simulator: Simulator, seed: int) -> Flow:
    """The estimator with its defaults."""
    return Flow(simulator.prior, simulator.observables, seed=seed)


def row(name: str, made: Timed, fresh: Store) -> dict[str, Any]:
    """What is printed of a training."""
    record, held_out = made.fit.record, fresh.load()
    used, validation = record["store"]["used"], record["store"]["held_out"]
    epochs, rows = int(record["history"][-1]["epoch"]) + 1, used - validation
    steps = epochs * (record["store"].get("buffer", rows) // record["recipe"]["batch"])
    return {
        "rows": name,
        "simulations": rows,
        "reuse": record["store"].get("reuse", epochs),
        "epochs": epochs,
        "steps": steps,
        "wall s": made.wall,
        "CPU s": made.cpu,
        "NLL": -float(build_posterior(made.fit).log_prob_batched(held_out.theta[None], held_out.x).mean()),
    }


if __name__ == "__main__":
    main()
