"""What an ensemble of five costs beside one network, and what it does for coverage.

    python benchmarks/ensembles.py             eight tasks, 1,000 simulations
    python benchmarks/ensembles.py --quick     two tasks, within a wider bound

Five members trained at once (`train_ensemble`) and each alone, on the same 1,000 simulations with the default recipe.
"coverage error" is the distance between the nominal and the found coverage of highest-density regions, averaged over
levels, on fresh simulations: for one, the mean of the five; it is in probability, and negative where regions are too
small on average. The cost of a step is that of 1,000 rows, in CPU seconds on a CPU and wall seconds on a GPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import TASKS, arguments, benchmark, check, clock, finish

from sciinf import (
    Calibration,
    Flow,
    Recipe,
    Simulator,
    build_posterior,
    calibrate,
    simulate,
    train_ensemble,
)
from sciinf import train as train_one

MEMBERS = 5
SIMULATIONS, FRESH = 1_000, 2_000
TIMED = 20_000  # simulations of the timed trainings: 18 steps of 1,000 rows an epoch


def main() -> None:
    """Run all tasks."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=None, choices=TASKS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.tasks or (TASKS[:2] if options.quick else TASKS)
    rows = []
    for name in names:
        simulator = benchmark(name)
        with tempfile.TemporaryDirectory() as scratch:
            row = {"task": name, **coverage(simulator, Path(scratch), options.seed, options.device)}
            rows.append({**row, **cost(simulator, Path(scratch), options.device)})
        print(rows[-1], flush=True)
    most = 4.0 if torch.device(options.device).type == "cpu" else 2.0
    most = 5.0 if options.quick else most  # no more than five trainings: of two tasks it was 4.3
    ratio = float(np.exp(np.mean(np.log([row["cost of five"] for row in rows]))))
    one, five = (float(np.mean([row[f"coverage error of {which}"] for row in rows])) for which in ("one", "five"))
    checks = [
        check("cost of five over one (geometric mean)", ratio, most),
        check("mean coverage error of five, against that of one", five, one),
    ]
    finish(rows, checks, options.json)


def coverage(simulator: Simulator, folder: Path, seed: int, device: str) -> dict[str, Any]:
    """Coverage and NLL on fresh simulations of an ensemble and of its members."""
    store = simulate(simulator, folder / "simulations", SIMULATIONS, seed=seed, progress=False)
    fresh = simulate(simulator, folder / "fresh", FRESH, seed=seed + 1_000, progress=False)
    fits = train_ensemble(_estimators(simulator), store, folder / "ensemble", recipe=Recipe(device=device), seed=seed)
    posteriors = [build_posterior(fits), *(build_posterior(fit) for fit in fits)]
    found = [calibrate(posterior, fresh, rows=FRESH, seed=seed) for posterior in posteriors]
    held = fresh.load()
    nll = [-float(p.log_prob_batched(held.theta[None], held.x).mean()) for p in posteriors]
    errors, signed = [_error(c) for c in found], [float(np.mean(c.coverage - c.levels)) for c in found]
    return {
        "coverage error of one": float(np.mean(errors[1:])),
        "coverage error of five": errors[0],
        "bias of one": float(np.mean(signed[1:])),
        "bias of five": signed[0],
        "NLL of one": float(np.mean(nll[1:])),
        "NLL of five": nll[0],
    }


def cost(simulator: Simulator, folder: Path, device: str) -> dict[str, float]:
    """Seconds of training five at once over those of training one, at 1,000 rows a step."""
    store = simulate(simulator, folder / "timed", TIMED, seed=1, progress=False)
    recipe = Recipe(batch=1_000, epochs=4, device=device)
    five, one = _estimators(simulator), _estimators(simulator)[0]
    ones, fives = [], []
    for round_ in range(3):
        ones.append(_timed(lambda r=round_: train_one(one, store, folder / f"one_{r}", recipe=recipe), device))
        fives.append(_timed(lambda r=round_: train_ensemble(five, store, folder / f"five_{r}", recipe=recipe), device))
    return {"s for one": min(ones), "s for five": min(fives), "cost of five": min(fives) / min(ones)}


def _estimators(simulator: Simulator) -> list[Flow]:
    return [Flow(simulator.prior, simulator.observables, seed=seed) for seed in range(MEMBERS)]


def _error(found: Calibration) -> float:
    return float(np.mean(np.abs(found.coverage - found.levels)))


def _timed(call: Any, device: str) -> float:
    started = clock(device)
    call()
    return clock(device) - started


if __name__ == "__main__":
    main()
