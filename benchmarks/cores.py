"""How much faster is a training on two cores, and what would more bring?

    python benchmarks/cores.py                   the demo's training on 600,000 simulations of lynx and hares, whole
    python benchmarks/cores.py --quick           60,000 simulations, eight epochs
    python benchmarks/cores.py --rounds 3        on one core and on two, three times by turns
    python benchmarks/cores.py --batch 500       rows a step, the default for so many simulations; else 1,000

Wall seconds of `train` on a CPU, validation and checkpoints included, the best of the rounds; let nothing else run.
With L lanes of a batch, a training takes S + W ceil(L / N) / L on N cores: S and W follow from one core and two.
Weights and validation losses must be the same, bit for bit.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, arguments, check, finish

from sciinf import Flow, Recipe, Simulator, load_simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Fit
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.kernels.lanes import cores_here, lanes
from sciinf.networks.summaries.vector import MLP

LEAST = {500: 1.3, 1_000: 1.7}  # times as fast on two cores, by rows a step
ASKED = (1, 2, 4, 8, 16)


def main() -> None:
    """Run it."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--simulations", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1_000, choices=list(LEAST))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if cores_here() < 2:
        raise SystemExit("this machine has one core")
    count = options.simulations or (60_000 if options.quick else 600_000)
    epochs = 8 if options.quick else None
    simulator = load_simulator(SIMULATORS / "lotka_volterra.py")
    times: dict[int, list[float]] = {1: [], 2: []}
    fits: dict[int, Fit] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(simulator, Path(folder) / "s", count, seed=options.seed)
        for _ in range(options.rounds):
            for cores, spent in times.items():
                seconds, fits[cores] = trained(simulator, store, cores, Recipe(epochs=epochs, batch=options.batch))
                spent.append(seconds)
                print(f"processes={cores}: {seconds:.1f} s", flush=True)
    one, two = (min(spent) for spent in times.values())
    losses = {cores: [row["validation_loss"] for row in fit.record["history"]] for cores, fit in fits.items()}
    rows = [{"cores": c, "s": min(spent), "validation loss": min(losses[c])} for c, spent in times.items()]
    other = losses[1] != losses[2] or not torch.equal(weights(fits[1]), weights(fits[2]))
    checks = [
        check("share of the time that two cores take", two / one, 1 / LEAST[options.batch]),
        check("other results", other, 0.0),
    ]
    finish(rows + predicted(options.batch, one, two), checks, options.json)


def trained(simulator: Simulator, store: Store, cores: int, recipe: Recipe) -> tuple[float, Fit]:
    """Wall seconds of the demo's training, and its fit."""
    summary, flow = MLP(features=64, hidden=(256, 256)), SplineCoupling(hidden=64)
    estimator = Flow(simulator.prior, simulator.observables, summary=summary, flow=flow)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        fit = train(estimator, store, folder, recipe=recipe, processes=cores)
        return time.perf_counter() - started, fit


def weights(fit: Fit) -> torch.Tensor:
    """All of a fit's weights."""
    return torch.cat([value.flatten() for value in fit.learned.state_dict().values()])


def predicted(batch: int, one: float, two: float) -> list[dict[str, Any]]:
    """What the model says of other numbers of cores, for this batch and for one of four times its rows."""
    shared = (one - two) / (1 - _share(batch, 2))  # W
    print(f"of one core's {one:.1f} s, {shared:.1f} s are shared by cores")
    return [
        {"rows a step": size, "cores": n, "times as fast": one / (one - shared + shared * _share(size, n))}
        for size in (batch, 4 * batch)
        for n in ASKED
    ]


def _share(rows: int, cores: int) -> float:
    count = len(lanes(rows, rows))
    return math.ceil(count / cores) / count


if __name__ == "__main__":
    main()
