"""A diffusion that is learned with its network, beside fixed ones: a part of `papers.py`.

All have the same network and about the same CPU seconds: epochs of the fixed ones are as many as take as long as those
of the learned one, by two short runs. Bounds are of the same fresh rows, by one estimate (`lab.bound`), in nats;
"less vp" is the mean difference to variance preserving, with its standard error over rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from papers_scores import Curved, Found
from reporting import benchmark, check, clock
from torch import Tensor

from sciinf import Recipe, Simulator, simulate, train
from sciinf.core import Batch
from sciinf.lab import AuxiliaryScore, LearnedDiffusion, critically_damped, variance_preserving

PROCESSES = {"vp": variance_preserving, "damped": critically_damped, "learned": LearnedDiffusion}


def learned(options: Any, out: Path) -> Found:
    """Bounds on log p(theta | x) of three tasks; two seeds, or one."""
    rows, checks = list[dict[str, Any]](), list[dict[str, Any]]()
    for seed in range(options.seed, options.seed + (1 if options.quick else 2)):
        for task in ("curved", "two_moons", "slcp"):
            simulator = Curved() if task == "curved" else benchmark(task)
            found, more = _compared(simulator, options.quick, seed, out / f"{task}_{seed}")
            rows += found
            if task == "curved":
                above = max((row["bound"] - more) / row["se"] for row in found)
                checks.append(check(f"learned: bound above the exact log density, seed {seed}, in se", above, 3.0))
    gains = [row["less vp"] / row["its se"] for row in rows if row["process"] == "learned"]
    print(f"learned above variance preserving by 3 se in {sum(gain > 3 for gain in gains)} of {len(gains)}")
    worst = max(float(row["still"]) for row in rows if row["process"] == "learned")
    return rows, [*checks, check("learned: runs in which no number of the diffusion moved by 0.05", worst, 0.0)]


def _compared(simulator: Simulator, quick: bool, seed: int, out: Path) -> tuple[list[dict[str, Any]], float]:
    """Rows of a task, and for `Curved` the mean exact log density."""
    store = simulate(simulator, out / "s", 3_000 if quick else 10_000, seed=seed, progress=False)
    fresh = simulate(simulator, out / "fresh", 2_000, seed=seed + 1_000, progress=False).load()
    epochs, costs = 36 if quick else 60, dict[str, float]()
    for name in ("vp", *PROCESSES):  # what comes first also loads what all need
        folder = out / f"short_{name}_{len(costs)}"
        costs[name] = _trained(simulator, name, store, Recipe(epochs=2, batch=100), seed, folder)[1]
    rows, bounds = list[dict[str, Any]](), dict[str, Tensor]()
    for name in PROCESSES:
        many = round(epochs * costs["learned"] / costs[name])
        recipe = Recipe(epochs=many, patience=many, batch=100)
        estimator, took = _trained(simulator, name, store, recipe, seed, out / name)
        law = estimator.eval().condition(fresh.x)
        each = law.bound(fresh.theta[None], generator=torch.Generator().manual_seed(seed))[0]
        bounds[name] = each
        less = each - bounds["vp"]
        row = {"task": simulator.name, "seed": seed, "process": name, "bound": float(each.mean()), "se": _error(each)}
        row |= {"less vp": float(less.mean()), "its se": _error(less), "epochs": many, "seconds": took}
        numbers = [parameter for key, parameter in estimator.named_parameters() if key == "noising.free"]
        row["still"] = bool(numbers) and not float(numbers[0].detach().abs().max()) > 0.05
        rows.append(row)
    exact = float(_exact(fresh).mean()) if isinstance(simulator, Curved) else 0.0
    return [row | {"exact": exact or "-"} for row in rows], exact


def _trained(simulator: Simulator, name: str, store: Any, recipe: Recipe, seed: int, folder: Path) -> tuple[Any, float]:
    started = clock("cpu")
    score = AuxiliaryScore(
        simulator.prior, simulator.observables, process=PROCESSES[name](), hidden=64, blocks=2, seed=seed
    )
    fit = train(score, store, folder, recipe=recipe, seed=seed, progress=False)
    return fit.estimator, clock("cpu") - started


def _error(each: Tensor) -> float:
    return float(each.std()) / len(each) ** 0.5


def _exact(fresh: Batch) -> Tensor:
    """log p(theta | x) of `Curved`, by a grid of theta for each row."""
    line = torch.linspace(-4.5, 4.5, 181, dtype=torch.float64)
    grid, x = torch.cartesian_prod(line, line), fresh.x["x"].double()

    def joint(theta: Tensor, x: Tensor) -> Tensor:
        a, b = theta.unbind(-1)
        off = x - torch.stack([a + b.square(), b**3 / 3], -1)
        return -0.5 * (theta.square().sum(-1) + off.square().sum(-1) / 0.09)

    area = 2 * (line[1] - line[0]).log()
    whole = torch.cat([torch.logsumexp(joint(grid, part[:, None]), 1) for part in x.split(50)]) + area
    return joint(fresh.theta.double(), x) - whole
