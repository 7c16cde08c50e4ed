"""Posteriors of many observations, composed from scores of single ones, against the exact ones.

    python benchmarks/compositional.py             exact scores, and a network trained on 10,000 simulations
    python benchmarks/compositional.py --quick     up to 30 observations
    python benchmarks/compositional.py --no-peer   without sbi

"exact": Gaussian prior and likelihood in D dimensions, theta off the origin, scores known. "trained": the Gaussian
linear task in 10 dimensions, a `Score` trained on single observations; rms over parameters and sets. Errors of means
are in sds of the exact posterior; for "exact" it is the norm over dimensions, which noise of N draws makes sqrt(D / N).
sbi's NPSE is trained on the same simulations with its defaults, which is kept in `--cache`, and draws by its four
methods for sets (jac_gauss, which takes many minutes, without --quick only), for the first set alone; one that fails
or takes longer than `--patience` seconds has no figures.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from reporting import arguments, benchmark, check, clock, finish
from sbi_peer import SET_METHODS, sample_set, train_peer
from torch import Tensor

from sciinf import Compositional, Score, simulate, train
from sciinf.networks.diffusion import Exponential, NoiseLevel
from sciinf.networks.diffusion.composition import Composition, MultivariateNormals

SIMULATIONS, SETS, DRAWS = 10_000, 5, 1_000
PEER_DRAWS = 200  # of sbi, whose jac_gauss takes minutes for them
BOUNDS = {10: 0.3, 30: 0.5, 100: 1.0}  # of the trained network's means, in sds
VARIANCE = 0.1  # of prior and noise of the task


def main() -> None:
    """Print both tables as one."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--no-peer", action="store_true", help="leave sbi out")
    parser.add_argument("--patience", type=int, default=1_800, help="seconds for draws of one method of sbi")
    parser.add_argument("--cache", type=Path, default=Path("runs/against_sbi"), help="what sbi's trainings gave")
    options = parser.parse_args()
    torch.set_num_threads(1)
    most = 30 if options.quick else 1_000
    rows = [exact(dim, n, options.seed) for dim in (1, 2, 10) for n in (1, 10, 30, 100, 1_000) if n <= most]
    checks = []
    for row in rows:
        name = f"exact, D = {row['D']}, n = {row['n']}"
        checks.append(check(f"{name}: error of means", row["error"], 3 * math.sqrt(row["D"] / row["draws"]) + 0.05))
        checks.append(check(f"{name}: sds off by", max(1 - row["least sd"], row["largest sd"] - 1), 0.07))
    options.methods = () if options.no_peer else SET_METHODS[:-1] if options.quick else SET_METHODS
    counts = [n for n in BOUNDS if n <= most]
    found = trained(counts, SETS, options)
    for row in found:
        if row["scores"] != "trained":
            continue
        peers = [peer for peer in found if peer["n"] == row["n"] and peer is not row]
        best = min((peer["error"] for peer in peers if math.isfinite(peer["error"])), default=math.inf)
        if peers:
            checks.append(
                check(f"trained, n = {row['n']}: first set, error above sbi's best", row["first"] - best, 0.0)
            )
        checks.append(check(f"trained, n = {row['n']}: error of means", row["error"], BOUNDS[row["n"]]))
        checks.append(check(f"trained, n = {row['n']}: largest sd", row["largest sd"], 1.25))
        checks.append(check(f"trained, n = {row['n']}: 1 / least sd", 1 / row["least sd"], 1 / 0.8))
    finish(rows + found, checks, options.json)


def exact(dim: int, n: int, seed: int) -> dict[str, Any]:
    """One set, with scores that are known."""
    source = torch.Generator().manual_seed(seed)
    draws, eye = 4_000 if n < 1_000 else 1_000, torch.eye(dim, dtype=torch.float64)
    a, b = (torch.randn(dim, dim, generator=source, dtype=torch.float64) for _ in range(2))
    prior, noise = MultivariateNormals(0.3 * eye[0], eye + 0.1 * a @ a.T), 0.5 * eye + 0.2 * b @ b.T
    theta = torch.full((dim,), 2.0, dtype=torch.float64)
    theta[1::2] = -1.5
    x = theta + torch.randn(n, dim, generator=source, dtype=torch.float64) @ torch.linalg.cholesky(noise).T
    (pull, before), per = prior.natural(), torch.linalg.inv(noise)
    one, all_ = torch.linalg.inv(before + per), torch.linalg.inv(before + n * per)
    composition = Composition(MultivariateNormals((x @ per + pull) @ one, one.expand(n, dim, dim)), prior)
    started, moments = clock("cpu"), composition.moments()
    path = NoiseLevel(0.03 * float(torch.linalg.eigvalsh(moments.covariance)[0]) ** 0.5, 10.0)
    spread = torch.linalg.cholesky(moments.covariance + path.most**2 * eye)
    y = moments.mean + torch.randn(draws, dim, generator=source, dtype=torch.float64) @ spread.T
    z = Exponential(30).solve(composition.denoise, y, path, generator=source)
    mean, sd = all_ @ (pull + per @ x.sum(0)), all_.diagonal().sqrt()
    return {"scores": "exact", "D": dim, "n": n, "draws": draws, **off(z, mean, sd, norm=True), **since(started)}


def trained(counts: list[int], sets: int, options: Any) -> list[dict[str, Any]]:
    """Sets of observations, each of a theta of its own, with a trained network; and sbi's."""
    methods, seed, cache = options.methods, options.seed, options.cache
    simulator, source, rows = benchmark("gaussian_linear"), torch.Generator().manual_seed(seed), []
    with tempfile.TemporaryDirectory() as scratch:
        store = simulate(simulator, Path(scratch) / "simulations", SIMULATIONS, seed=seed, progress=False)
        fit = train(Score(simulator.prior, simulator.observables), store, Path(scratch) / "fit", seed=seed)
        peer = train_peer("npse", simulator, store, seed, cache).posterior if methods else None
    for n in counts:
        thetas = simulator.prior.sample(sets, generator=source)
        data: list[Any] = [simulator(theta.expand(n, -1), generator=source) for theta in thetas]
        data = [one["x"] for one in data]
        started, posterior = clock("cpu"), Compositional(fit, n)
        each = [moments(posterior.sample(DRAWS, x=x, generator=source), x) for x in data]
        error = math.sqrt(sum(one["error"] ** 2 for one in each) / sets)
        ends = {"least sd": min(one["least sd"] for one in each), "largest sd": max(one["largest sd"] for one in each)}
        shown = {"D": 10, "n": n, "draws": DRAWS}
        rows.append({"scores": "trained", **shown, "error": error, **ends, **since(started), "first": each[0]["error"]})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        for method in methods:
            started = clock("cpu")
            draws = sample_set(peer, data[0], method, PEER_DRAWS, options.patience)
            rows.append({"scores": f"sbi {method}", **shown, **moments(draws, data[0]), **since(started)})
            rows[-1]["draws"] = PEER_DRAWS
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def moments(draws: Tensor, x: Tensor) -> dict[str, float]:
    """Of draws of the posterior of a set x (n, 10) of the task, against the exact one."""
    sd = torch.full((x.shape[1],), math.sqrt(VARIANCE / (1 + len(x))))
    return off(draws, x.sum(0) / (1 + len(x)), sd, norm=False)


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
