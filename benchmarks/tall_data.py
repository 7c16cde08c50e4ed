"""Posteriors of 1 to 30 observations on three tasks of the literature, against long Markov chains on the likelihood.

    python benchmarks/tall_data.py                 SLCP, Lotka-Volterra, SIR; 1,000 to 30,000 simulations (hours)
    python benchmarks/tall_data.py --quick         SIR, 1,000 simulations, 1 and 8 observations, within a wider bound
    python benchmarks/tall_data.py --no-peer       without sbi

"composed": a `Score` trained on single observations, `Compositional`. "set flow": a `Flow` trained on sets of up to 30,
as many simulator calls in all. sbi: its NPSE with its defaults on the same simulations, drawing by each of its methods
for sets; a method that fails, or takes longer than `--patience` seconds, has no figures. The reference: stretch moves
of 400 walkers on the true likelihood, started from draws of the prior; of SLCP each of its four mirrored modes is as
likely. "W": sliced Wasserstein-1 distance in units of the reference's sds, 200 directions, beside the distance of two
parts of the reference as small ("floor") and of the first and the last third of the chains ("chains"). C2ST: of as many
draws. Trainings and references are kept in `--cache`.

References:
    | Diffusion posterior sampling for simulation-based inference in tall data settings (Linhart et al., 2024),
      https://arxiv.org/abs/2404.07593
    | Ensemble samplers with affine invariance (Goodman & Weare, 2010)
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import arguments, benchmark, check, clock, finish
from sbi_peer import SET_METHODS, c2st, sample_set, train_peer
from torch import Tensor

from sciinf import Compositional, Flow, Score, Simulator, build_posterior, simulate, train
from sciinf.diagnostics.distances import sliced_wasserstein
from sciinf.wrappers import sets

NAMES = ("slcp", "lotka_volterra", "sir")
COUNTS, BUDGETS, MOST = (1, 8, 14, 22, 30), (1_000, 3_000, 10_000, 30_000), 30
DRAWS, WALKERS, STEPS = 500, 400, 3_000
MIRRORED = {"slcp": (2, 3)}  # parameters whose sign the likelihood does not see


def main() -> None:
    """Print the table."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=None, choices=NAMES)
    parser.add_argument("--budgets", nargs="+", type=int, default=None)
    parser.add_argument("--counts", nargs="+", type=int, default=None, help="observations in a set")
    parser.add_argument("--methods", nargs="*", default=None, choices=SET_METHODS, help="of sbi")
    parser.add_argument("--no-peer", action="store_true", help="leave sbi out")
    parser.add_argument("--patience", type=int, default=300, help="seconds for draws of one method of sbi")
    parser.add_argument("--cache", type=Path, default=Path("runs/against_sbi"), help="trainings of sbi, references")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick = options.quick
    tasks = options.tasks or (("sir",) if quick else NAMES)
    counts = options.counts or ((1, 8) if quick else COUNTS)
    usual = SET_METHODS[:3] if quick else SET_METHODS
    options.methods = () if options.no_peer else usual if options.methods is None else options.methods
    rows: list[dict[str, Any]] = []
    for task in tasks:
        for budget in options.budgets or ((1_000,) if quick else BUDGETS):
            with tempfile.TemporaryDirectory() as scratch:
                rows += trained(task, budget, counts, options, Path(scratch))
    ours = [row for row in rows if row["method"] == "composed"]
    checks = [check("composed: cells without a finite figure", sum(not math.isfinite(r["W"]) for r in ours), 0)]
    checks.append(check("chains: largest distance of first and last third", max(r["chains"] for r in ours), 0.1))
    for row in ours:
        peers = [r["W"] for r in rows if r["method"].startswith("sbi") and _cell(r) == _cell(row)]
        peers = [w for w in peers if math.isfinite(w)]
        if peers and row["n"] > 1:
            checks.append(check(f"{_cell(row)}: W / sbi's best", row["W"] / min(peers), 2.0 if quick else 1.0))
    finish(rows, checks, options.json)


def _cell(row: dict[str, Any]) -> str:
    return f"{row['task']}, {row['simulations']} simulations, n = {row['n']}"


def trained(task: str, budget: int, counts: tuple[int, ...], options: Any, folder: Path) -> list[dict[str, Any]]:
    """All methods on sets of each size, after one training each."""
    simulator, seed = benchmark(task), options.seed
    store = simulate(simulator, folder / "simulations", budget, seed=seed, progress=False)
    fit = train(Score(simulator.prior, simulator.observables, seed=seed), store, folder / "score", seed=seed)
    many = sets(simulator, MOST)
    fewer = simulate(many, folder / "sets", max(50, 2 * budget // (MOST + 1)), seed=seed, progress=False)
    flow = train(Flow(many.prior, many.observables, seed=seed), fewer, folder / "flow", seed=seed)
    together = build_posterior(flow)
    peer = train_peer("npse", simulator, store, seed, options.cache).posterior if options.methods else None
    rows = []
    for n in counts:
        source = torch.Generator().manual_seed(1_000 * seed + n)
        theta = simulator.prior.sample(1, generator=source)
        x = data_of(simulator(theta.expand(n, -1), generator=source))
        exact = reference(task, x, seed, options.cache)
        padded = torch.zeros(MOST, x.shape[1])
        padded[:n] = x
        methods: dict[str, Callable[[], Tensor]] = {
            "composed": lambda n=n, x=x, source=source: Compositional(fit, n).sample(DRAWS, x=x, generator=source),
            "set flow": lambda n=n, padded=padded, source=source: together.sample(
                DRAWS, x={"x": padded, "x_mask": torch.arange(MOST) < n}, generator=source
            ),
        }
        for method in options.methods:
            methods[f"sbi {method}"] = lambda x=x, method=method: sample_set(peer, x, method, DRAWS, options.patience)
        for name, sample in methods.items():
            started = clock("cpu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                draws = sample()
            spent = clock("cpu") - started
            row = {
                "task": task,
                "simulations": budget,
                "n": n,
                "method": name,
                **compared(draws, exact),
                "chains": settled(exact),
                "s": spent,
            }
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def data_of(made: Any) -> Tensor:
    """The one observable of these tasks."""
    return made["x"]


def compared(draws: Tensor, exact: Tensor) -> dict[str, float]:
    """Distances of draws from the reference, and of its halves from one another; NaN of draws that are not finite."""
    order = torch.randperm(len(exact), generator=torch.Generator().manual_seed(0))
    first, second = exact[order[:DRAWS]], exact[order[DRAWS : 2 * DRAWS]]
    sd = exact.std(0)
    floor = sliced_wasserstein(first / sd, second / sd, order=1)
    if len(draws) < DRAWS or not bool(draws.isfinite().all()):
        return {"W": math.nan, "floor": floor, "C2ST": math.nan}
    return {"W": sliced_wasserstein(draws / sd, first / sd, order=1), "floor": floor, "C2ST": c2st(draws, first)}


def reference(task: str, x: Tensor, seed: int, cache: Path) -> Tensor:
    """Draws of the posterior of a set (n, E) by Markov chains, kept in the cache: (draws, D)."""
    about = x.numpy().tobytes() + f"{task} {WALKERS} {STEPS} {seed}".encode()
    file = cache / f"tall_{hashlib.sha256(about).hexdigest()[:16]}.npy"
    if file.is_file():
        return torch.from_numpy(np.load(file))
    draws = by_chains(benchmark(task), likelihood_of(task), x, torch.Generator().manual_seed(seed))
    for index in MIRRORED.get(task, ()):
        signs = 2 * torch.randint(0, 2, (len(draws),), generator=torch.Generator().manual_seed(index)) - 1
        draws[:, index] = draws[:, index].abs() * signs
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, draws.numpy())
    return draws


def settled(exact: Tensor) -> float:
    """Distance of the first and the last third of a reference, in its sds: of chains that still moved, or stuck."""
    third, sd = len(exact) // 3, exact.std(0)
    return sliced_wasserstein(exact[:third] / sd, exact[-third:] / sd, order=1)


def by_chains(simulator: Simulator, likelihood: Any, x: Tensor, source: torch.Generator) -> Tensor:
    """Stretch moves in z = b(theta), half of the walkers at a time; every 20th of the last two thirds, by time."""
    bijection, half = simulator.prior.bijection, WALKERS // 2

    def log_density(z: Tensor) -> Tensor:
        theta = bijection.inverse(z)
        prior = simulator.prior.log_prob(theta) - bijection.log_abs_det_jacobian(theta)
        return (likelihood(simulator, theta, x.double()) + prior).nan_to_num(nan=-math.inf)

    start = bijection.forward(simulator.prior.sample(20_000, generator=source).double())
    flat = likelihood(simulator, bijection.inverse(start), x.double()).nan_to_num(nan=-math.inf)
    power = 1.0
    while power > 1e-6 and _ess(power * flat) < 200:  # tempered, so that there are many to begin with
        power *= 0.7
    chosen = torch.multinomial((power * flat).softmax(0), WALKERS, replacement=True, generator=source)
    z = start[chosen] + 1e-3 * torch.randn(WALKERS, start.shape[1], generator=source).double()
    value, kept = log_density(z), []
    for step in range(STEPS):
        order = torch.randperm(WALKERS, generator=source)
        for moved, others in ((order[:half], order[half:]), (order[half:], order[:half])):
            partner = others[torch.randint(half, (half,), generator=source)]
            stretch = (torch.rand(half, generator=source).double() + 1) ** 2 / 2  # density ~ s^{-1/2} on (1/2, 2)
            proposal = z[partner] + stretch[:, None] * (z[moved] - z[partner])
            found = log_density(proposal)
            gain = (z.shape[1] - 1) * stretch.log() + found - value[moved]
            taken = torch.rand(half, generator=source).double().log() < gain
            z[moved[taken]], value[moved[taken]] = proposal[taken], found[taken]
        if step >= STEPS // 3 and step % 20 == 0:
            kept.append(bijection.inverse(z.clone()))
    return torch.cat(kept).float()


def _ess(log_weight: Tensor) -> float:
    weight = log_weight.softmax(0)
    return float(1 / weight.square().sum())


def likelihood_of(task: str) -> Callable[[Simulator, Tensor, Tensor], Tensor]:
    """log p(x_1..x_n | theta) up to a constant, (B, D) and (n, E) to (B,), with one solution of the equations each."""

    def from_means(solve: Callable[[Tensor], Tensor], each: Callable[[Tensor, Tensor], Tensor]) -> Any:
        return lambda _, theta, x: each(solve(theta)[:, None], x).sum((1, 2))

    def every(simulator: Simulator, theta: Tensor, x: Tensor) -> Tensor:
        wide, deep = theta.repeat_interleave(len(x), 0), x.repeat(len(theta), 1)
        if simulator.log_likelihood is None:
            raise ValueError(f"{simulator.name} has no likelihood")
        return simulator.log_likelihood(wide, {"x": deep}).reshape(len(theta), len(x)).sum(1)

    if task == "slcp":
        return every
    module = sys.modules[type(benchmark(task)).__module__]
    if task == "sir":
        return from_means(module.log_infected, lambda m, x: x * m + (module.SAMPLE - x) * torch.log1p(-m.exp()))
    return from_means(module.log_populations, lambda m, x: -0.5 * ((x.log() - m) / module.SIGMA) ** 2)


if __name__ == "__main__":
    main()
