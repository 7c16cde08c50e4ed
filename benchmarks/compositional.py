"""Posteriors of many observations, composed from scores of single ones, against the exact ones.

    python benchmarks/compositional.py             exact scores, and a network trained on 10,000 simulations
    python benchmarks/compositional.py --quick     up to 30 observations, one set each

"exact": Gaussian prior and likelihood in D dimensions, theta off the origin, scores known. "trained": the Gaussian
linear task in 10 dimensions, a `Score` trained on single observations; rms over parameters and sets. Errors of means
are in sds of the exact posterior; for "exact" it is the norm over dimensions, which noise of N draws makes sqrt(D / N).
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from reporting import arguments, benchmark, check, clock, finish
from torch import Tensor

from sciinf import Compositional, Score, simulate, train
from sciinf.diffusion import Exponential, Level
from sciinf.diffusion.composition import Composition, Gaussian

SIMULATIONS, SETS = 10_000, 5
BOUNDS = {10: 0.3, 30: 0.5, 100: 1.0}  # of the trained network's means, in sds
VARIANCE = 0.1  # of prior and noise of the task


def main() -> None:
    """Print both tables as one."""
    options = arguments(str(__doc__).splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    most = 30 if options.quick else 1_000
    rows = [exact(dim, n, options.seed) for dim in (1, 2, 10) for n in (1, 10, 30, 100, 1_000) if n <= most]
    checks = []
    for row in rows:
        name = f"exact, D = {row['D']}, n = {row['n']}"
        checks.append(check(f"{name}: error of means", row["error"], 3 * math.sqrt(row["D"] / row["draws"]) + 0.05))
        checks.append(check(f"{name}: sds off by", max(1 - row["least sd"], row["largest sd"] - 1), 0.07))
    found = trained([n for n in BOUNDS if n <= most], 1 if options.quick else SETS, options.seed)
    for row in found:
        checks.append(check(f"trained, n = {row['n']}: error of means", row["error"], BOUNDS[row["n"]]))
        checks.append(check(f"trained, n = {row['n']}: largest sd", row["largest sd"], 1.25))
        checks.append(check(f"trained, n = {row['n']}: 1 / least sd", 1 / row["least sd"], 1 / 0.8))
    finish(rows + found, checks, options.json)


def exact(dim: int, n: int, seed: int) -> dict[str, Any]:
    """One set, with scores that are known."""
    source = torch.Generator().manual_seed(seed)
    draws, eye = 4_000 if n < 1_000 else 1_000, torch.eye(dim, dtype=torch.float64)
    a, b = (torch.randn(dim, dim, generator=source, dtype=torch.float64) for _ in range(2))
    prior, noise = Gaussian(0.3 * eye[0], eye + 0.1 * a @ a.T), 0.5 * eye + 0.2 * b @ b.T
    theta = torch.full((dim,), 2.0, dtype=torch.float64)
    theta[1::2] = -1.5
    x = theta + torch.randn(n, dim, generator=source, dtype=torch.float64) @ torch.linalg.cholesky(noise).T
    (pull, before), per = prior.natural(), torch.linalg.inv(noise)
    one, all_ = torch.linalg.inv(before + per), torch.linalg.inv(before + n * per)
    composition = Composition(Gaussian((x @ per + pull) @ one, one.expand(n, dim, dim)), prior)
    started, moments = clock("cpu"), composition.moments()
    path = Level(0.03 * float(torch.linalg.eigvalsh(moments.covariance)[0]) ** 0.5, 10.0)
    spread = torch.linalg.cholesky(moments.covariance + path.most**2 * eye)
    y = moments.mean + torch.randn(draws, dim, generator=source, dtype=torch.float64) @ spread.T
    z = Exponential(30).solve(composition.denoise, y, path, generator=source)
    mean, sd = all_ @ (pull + per @ x.sum(0)), all_.diagonal().sqrt()
    return {"scores": "exact", "D": dim, "n": n, "draws": draws, **off(z, mean, sd, norm=True), **since(started)}


def trained(counts: list[int], sets: int, seed: int) -> list[dict[str, Any]]:
    """Sets of observations, each of a theta of its own, with a trained network."""
    simulator, source, rows = benchmark("gaussian_linear"), torch.Generator().manual_seed(seed), []
    with tempfile.TemporaryDirectory() as scratch:
        store = simulate(simulator, Path(scratch) / "simulations", SIMULATIONS, seed=seed, progress=False)
        estimator = Score(simulator.prior, simulator.observables)
        fit = train(estimator, store, Path(scratch) / "fit", seed=seed)
    for n in counts:
        started, posterior, each = clock("cpu"), Compositional(fit, n), []
        for _ in range(sets):
            theta = simulator.prior.sample(1, generator=source).expand(n, -1)
            x: Any = simulator(theta, generator=source)
            draws = posterior.sample(1_000, x=x, generator=source)
            values = x["x"]
            sd = torch.full((values.shape[1],), math.sqrt(VARIANCE / (1 + n)))
            each.append(off(draws, values.sum(0) / (1 + n), sd, norm=False))
        error = math.sqrt(sum(one["error"] ** 2 for one in each) / sets)
        ends = {"least sd": min(one["least sd"] for one in each), "largest sd": max(one["largest sd"] for one in each)}
        rows.append({"scores": "trained", "D": 10, "n": n, "draws": 1_000, "error": error, **ends, **since(started)})
    return rows


def off(draws: Tensor, mean: Tensor, sd: Tensor, *, norm: bool) -> dict[str, float]:
    """Error of the means in sds, and the range of the sds' ratios."""
    error, ratio = (draws.mean(0) - mean) / sd, draws.std(0) / sd
    size = error.norm() if norm else error.square().mean().sqrt()
    return {"error": float(size), "least sd": float(ratio.min()), "largest sd": float(ratio.max())}


def since(started: float) -> dict[str, float]:
    """CPU seconds since."""
    return {"s": clock("cpu") - started}


if __name__ == "__main__":
    main()
