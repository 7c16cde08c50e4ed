"""Is the default recipe on the front of accuracy and time? Other steps and learning rates beside it.

    python benchmarks/recipe.py          a set, a series, an image, 20 and 40 parameters; 1,000 and 10,000 simulations
    python benchmarks/recipe.py --quick                      the set, 1,000 simulations
    python benchmarks/recipe.py --tasks slcp two_moons --simulations 100000

"steps x 2" makes twice as many steps as the default, "rate / 2" has half its learning rate, and "batch x .4" as many
steps of .4 times the rows. NLL is of 5,000 fresh simulations, in nats; seconds are CPU seconds of this process. The
default is off the front where another recipe that takes no more time has an NLL lower by more than .02, and by more
than twice what two seeds of the default differ.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from asked_models import MODELS, randn
from reporting import SIMULATORS, TASKS, arguments, benchmark, check, finish
from torch import Tensor
from torch import distributions as td

from sciinf import Flow, Observable, Prior, Recipe, Simulator, build_posterior, load_simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.core.observable import X

HELD_OUT, LEAST, NO_MORE = 5_000, 0.02, 1.05
CHANGES: dict[str, Callable[[Recipe], Recipe]] = {
    "default": lambda r: r,
    "another seed": lambda r: r,
    "steps / 2": lambda r: replace(r, epochs=max(1, (r.epochs or 1) // 2)),
    "steps x 2": lambda r: replace(r, epochs=2 * (r.epochs or 1)),
    "rate / 2": lambda r: replace(r, learning_rate=_rate(r) / 2),
    "rate x 2": lambda r: replace(r, learning_rate=_rate(r) * 2),
    "batch x .4": lambda r: _smaller(r, 0.4),
    "batch x .25": lambda r: _smaller(r, 0.25),
    "decay x 2.5": lambda r: replace(r, weight_decay=2.5 * (r.weight_decay or 0.0)),
}


class Many(Simulator):
    """D parameters, each bent by its neighbour, seen through 2 D sums of all, in noise."""

    def __init__(self, size: int) -> None:
        self.name, self.size = f"many_{size}", size
        self.prior = Prior(**{f"p{k}": td.Normal(0.0, 1.0) for k in range(size)})
        self.observables = {"x": Observable((2 * size,), dims=("channel",))}
        self.design = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(0)) / math.sqrt(size)

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        bent = (theta + 0.3 * theta.roll(1, dims=1).square()) @ self.design.to(theta)
        return {"x": bent + 0.2 * randn(theta, 2 * self.size, generator=generator)}


OWN: dict[str, Callable[[], Simulator]] = {
    "set": MODELS["points"],
    "series": MODELS["ar2"],
    "image": lambda: load_simulator(SIMULATORS / "turned_spot.py"),
    "twenty": lambda: Many(20),
    "forty": lambda: Many(40),
}


def _rate(recipe: Recipe) -> float:
    return float(recipe.learning_rate or 0.0)


def _smaller(recipe: Recipe, share: float) -> Recipe:
    """As many steps of fewer rows, with a rate that goes with the root of their number."""
    batch, epochs = round(share * int(recipe.batch or 1)), max(1, round(share * (recipe.epochs or 1)))
    return replace(recipe, batch=batch, epochs=epochs, learning_rate=share**0.5 * _rate(recipe))


def trained(simulator: Simulator, store: Store, fresh: Store, recipe: Recipe, seed: int, out: Path) -> dict[str, float]:
    """CPU seconds of a training, and NLL of fresh rows."""
    started = time.process_time()
    fit = train(Flow(simulator.prior, simulator.observables, seed=seed), store, out, recipe=recipe, seed=seed)
    spent, rows = time.process_time() - started, fresh.load()
    return {"CPU s": spent, "NLL": -float(build_posterior(fit).log_prob_batched(rows.theta[None], rows.x).mean())}


def front(name: str, simulator: Simulator, size: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each recipe, and by how much the best one that takes no more time beats the default."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(simulator, Path(folder) / "s", size, seed=seed, progress=False)
        fresh = simulate(simulator, Path(folder) / "f", HELD_OUT, seed=seed + 1, progress=False)
        about = {"parameters": len(simulator.prior), "learns": Flow(simulator.prior, simulator.observables).learns}
        default = Recipe(processes=1).resolved(round(0.9 * len(store)), **about)
        for k, (words, change) in enumerate(CHANGES.items()):
            own = seed + 1 if words == "another seed" else seed
            found = trained(simulator, store, fresh, change(default), own, Path(folder) / f"fit_{k}")
            rows.append({"task": name, "simulations": size, "recipe": words, **found})
            print(rows[-1], flush=True)
    first, second, *others = rows
    slack = max(LEAST, 2 * abs(first["NLL"] - second["NLL"]))
    quick = [row["NLL"] for row in others if row["CPU s"] <= NO_MORE * first["CPU s"]]
    better = first["NLL"] - min([first["NLL"], *quick])
    return rows, check(f"{name}, {size:,}: NLL above the best recipe that takes no more time", better, slack)


def main() -> None:
    """Run it."""
    torch.set_num_threads(1)
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(OWN), choices=[*OWN, *TASKS])
    parser.add_argument("--simulations", type=int, nargs="+", default=[1_000, 10_000])
    options = parser.parse_args()
    names, sizes = (["set"], [1_000]) if options.quick else (options.tasks, options.simulations)
    rows, checks = [], []
    for name in names:
        for size in sizes:
            found, said = front(name, OWN[name]() if name in OWN else benchmark(name), size, options.seed)
            rows += found
            checks.append(said)
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
