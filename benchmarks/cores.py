"""How much faster is a training on several cores, and what would more bring?

    python benchmarks/cores.py                   the demo's training on 600,000 simulations of lynx and hares, whole
    python benchmarks/cores.py --quick           60,000 simulations, eight epochs
    python benchmarks/cores.py --rounds 3        on one core and on all, three times by turns

Wall seconds of `train`, validation and checkpoints included, the best of the rounds; let nothing else run. With P parts
of a batch, a step takes S + W ceil(P / N) / P on N cores: S and W follow from one core and from all. Weights and losses
must be the same, bit for bit.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, arguments, check, finish

from sciinf import Flow, Recipe, Simulator, Store, load_simulator, simulate, train
from sciinf.engine.parts import ROWS, cores_here
from sciinf.flows.spline import SplineCoupling
from sciinf.summaries.vector import MLP

LEAST = 1.7  # times as fast on two cores
BATCH = 1_000  # rows a step, the default for so many simulations
ASKED = (1, 2, 4, 8, 16)


def trained(simulator: Simulator, store: Store, cores: int, epochs: int | None) -> tuple[float, dict[str, Any]]:
    """Wall seconds of the demo's training, and its record with the digest of its weights."""
    summary, flow = MLP(features=64, hidden=(256, 256)), SplineCoupling(hidden=64)
    estimator = Flow(simulator.prior, simulator.observables, summary=summary, flow=flow)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        fit = train(estimator, store, folder, recipe=Recipe(epochs=epochs, batch=BATCH, processes=cores))
        spent = time.perf_counter() - started
        weights = torch.cat([value.flatten() for value in fit.estimator.state_dict().values()])
        return spent, {**fit.record, "weights": weights}


def main() -> None:
    """Run it."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--simulations", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.simulations or (60_000 if options.quick else 600_000)
    epochs, all_cores = (8 if options.quick else None), cores_here()
    if all_cores == 1:
        raise SystemExit("this machine has one core")
    simulator = load_simulator(SIMULATORS / "lotka_volterra.py")
    times: dict[int, list[float]] = {1: [], all_cores: []}
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(simulator, Path(folder) / "s", count, seed=options.seed)
        found = {}
        for _ in range(options.rounds):
            for cores, spent in times.items():
                seconds, found[cores] = trained(simulator, store, cores, epochs)
                spent.append(seconds)
                print(f"{cores} cores: {seconds:.1f} s", flush=True)
    one, several = (min(spent) for spent in times.values())
    same = torch.equal(found[1]["weights"], found[all_cores]["weights"])
    rows = [
        {"cores": cores, "s": min(spent), "validation loss": found[cores]["best_validation_loss"]}
        for cores, spent in times.items()
    ]
    checks = [check(f"1 / speed on {all_cores} cores", several / one, 1 / LEAST), check("other weights", not same, 0.0)]
    finish(rows + predicted(one, several, all_cores), checks, options.json)


def predicted(one: float, several: float, cores: int) -> list[dict[str, Any]]:
    """What the model says of other numbers of cores, for the demo's batch and for one of 4,000 rows."""
    shared = (one - several) / (1 - _share(BATCH // ROWS, cores))  # W, in seconds of a training
    alone = one - shared
    print(f"of one core's {one:.1f} s, {shared:.1f} s are shared by cores, and {alone:.1f} s are not")
    rows = []
    for size in (BATCH, 4 * BATCH):  # the same share of one core's time is shared: Python costs each part its own
        for n in ASKED:
            faster = one / (alone + shared * _share(size // ROWS, n))
            rows.append({"rows a step": size, "cores": n, "times as fast": faster})
    return rows


def _share(parts: int, cores: int) -> float:
    return math.ceil(parts / cores) / parts


if __name__ == "__main__":
    main()
