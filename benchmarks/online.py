"""Training while simulating against training on stored simulations, for the same time.

    python benchmarks/online.py                  SLCP and Lotka-Volterra, 100,000 stored simulations
    python benchmarks/online.py --quick          10,000 stored simulations
    python benchmarks/online.py --device cuda    on a GPU

The stored training has the default recipe, with its early stopping; simulating its rows is not counted. The online one
has its own defaults, but for the number of epochs: it is chosen beforehand, from the speed of two short trainings, so
that the online training takes no longer, simulations and the measurement of their cost included. Those two trainings
are not counted; they stand for knowing how long one has. Seconds are CPU seconds of the process, all its threads
included (networks run on one), and wall seconds on a GPU. NLL: mean of -log q(theta | x) over 5,000 fresh simulations.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reporting import arguments, benchmark, check, clock, finish

from sciinf import Flow, Recipe, Simulator, build_posterior, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Fit
from sciinf.training.online import Simulated
from sciinf.training.training_inputs import prepared

HELD_OUT = 5_000
MARGIN = 0.93  # of the stored training's time is planned for, as speed varies
TRIALS = (1, 3)  # epochs of the trainings whose speed is measured


@dataclass(frozen=True)
class Timed:
    """A fit, and what it took by `clock` and by the wall's."""

    fit: Fit
    seconds: float
    wall: float


def main() -> None:
    """Run the comparison."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["slcp", "lotka_volterra"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, checks = [], []
    for task in options.tasks:
        simulator = benchmark(task)
        pair = compare(simulator, 10_000 if options.quick else 100_000, options.seed, options.device)
        for one in pair:
            rows.append({"task": task, **one})
            print(json.dumps(rows[-1]), flush=True)
        stored, online = pair
        checks.append(check(f"{task}: online seconds / stored", online["s"] / stored["s"], 1.0))
        checks.append(check(f"{task}: online NLL above stored", online["NLL"] - stored["NLL"], 0.0))
    finish(rows, checks, options.json)


def compare(simulator: Simulator, budget: int, seed: int, device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One row for the stored training, one for the online one."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = simulate(simulator, folder / "simulations", budget, seed=seed, progress=False)
        fresh = simulate(simulator, folder / "held_out", HELD_OUT, seed=seed + 1_000, progress=False)
        stored = timed(simulator, store, folder / "stored", Recipe(device=device), seed)
        online = within(simulator, stored.seconds, seed, folder, device)
        return row("stored", stored, fresh), row("online", online, fresh)


def within(simulator: Simulator, seconds: float, seed: int, folder: Path, device: str) -> Timed:
    """An online training that takes no longer than `seconds`, as far as its speed can be known beforehand."""
    told = Recipe(device=device)
    started, wall = clock(device), time.perf_counter()
    source, recipe = prepared(flow(simulator, seed), simulator, folder / "online", recipe=told, seed=seed)
    measuring, wall = clock(device) - started, time.perf_counter() - wall
    few, more = (
        timed(simulator, source.again(), folder / f"trial_{n}", replace(recipe, epochs=n, patience=n), seed).seconds
        for n in TRIALS
    )
    epoch = max((more - few) / (TRIALS[1] - TRIALS[0]), 1e-6)
    fixed = measuring + max(0.0, few - TRIALS[0] * epoch)  # the first buffer, the validation set, writing the fit
    epochs = max(1, math.floor((MARGIN * seconds - fixed) / epoch))
    final = replace(recipe, epochs=epochs, patience=epochs)
    made = timed(simulator, source.again(), folder / "online", final, seed)
    return Timed(made.fit, measuring + made.seconds, wall + made.wall)


def timed(simulator: Simulator, rows: Store | Simulated, out: Path, recipe: Recipe, seed: int) -> Timed:
    """Train on rows."""
    started, wall = clock(recipe.device), time.perf_counter()
    fit = train(flow(simulator, seed), rows, out, recipe=recipe, seed=seed)
    return Timed(fit, clock(recipe.device) - started, time.perf_counter() - wall)


def flow(simulator: Simulator, seed: int) -> Flow:
    """The estimator with its defaults."""
    return Flow(simulator.prior, simulator.observables, seed=seed)


def row(name: str, made: Timed, fresh: Store) -> dict[str, Any]:
    """What is printed of a training."""
    record, held_out = made.fit.record, fresh.load()
    used, validation = record["store"]["used"], record["store"]["held_out"]
    epochs, rows, batch = int(record["history"][-1]["epoch"]) + 1, used - validation, record["recipe"]["batch"]
    return {
        "rows": name,
        "simulations": rows,
        "reuse": record["store"].get("reuse", epochs),
        "batch": batch,
        "epochs": epochs,
        "steps": epochs * (record["store"].get("buffer", rows) // batch),
        "s": made.seconds,
        "wall s": made.wall,
        "NLL": -float(build_posterior(made.fit).log_prob_batched(held_out.theta[None], held_out.x).mean()),
    }


if __name__ == "__main__":
    main()
