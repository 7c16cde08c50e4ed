"""Is the verdict at the observation right? Planted errors, and trained networks beside exact posteriors.

    python benchmarks/where_asked.py            200 observations for each planted error, 40 for each network
    python benchmarks/where_asked.py --quick    40 and 10

Planted: a linear model whose exact posterior is made wrong, or is given a part of the data, which leaves it calibrated
over the prior. Networks: twenty normal points with unknown mean and sd, 20,000 simulations (5,000 with --quick), the
exact posterior on a grid. An answer is wrong where a mean is off by more than .15 sd or an sd by more than a tenth.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import arguments, check, finish, table
from torch import Tensor
from torch import distributions as td

from sciinf import Flow, Observable, Prior, Simulator, build_posterior, simulate, train
from sciinf.core import Posterior
from sciinf.core.simulator import load_module
from sciinf.trust.around import ROWS, simulate_around
from sciinf.trust.here import look_here, verdict

PLANTED: list[dict[str, Any]] = [
    {}, {"used": 6}, {"used": 14}, {"shift": 0.1}, {"shift": 0.2}, {"shift": 0.4},
    {"width": 0.7}, {"width": 0.85}, {"width": 0.95}, {"width": 1.2},
]  # fmt: skip
POINTS = 20


class Points(Simulator):
    """Twenty normal points: as a set, as numbers each of its own meaning, or their mean and log sd, which suffice."""

    name = "points"
    prior = Prior(mu=td.Normal(0.0, 3.0), sigma=td.LogNormal(0.0, 1.0))

    def __init__(self, kind: str) -> None:
        self.kind = kind
        size, axis = (2, "channel") if kind == "statistics" else (POINTS, "item" if kind == "set" else "channel")
        self.observables = {"x": Observable((size,), dims=(axis,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        x = theta[:, :1] + theta[:, 1:] * torch.randn(len(theta), POINTS, generator=generator)
        return {"x": torch.stack([x.mean(1), x.std(1).log()], dim=1) if self.kind == "statistics" else x}


def exact(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and sds of mu and sigma on a grid."""
    log_sigma = torch.linspace(-4.0, 4.0, 1_601, dtype=torch.float64)[:, None]
    sigma, x = log_sigma.exp(), x.double()
    middle, around = (x[0], (2 * x[1]).exp() * (POINTS - 1)) if len(x) == 2 else (x.mean(), x.var() * (POINTS - 1))
    spread = sigma / math.sqrt(POINTS)
    mu = middle + spread * torch.linspace(-8.0, 8.0, 801, dtype=torch.float64)
    log = -POINTS * log_sigma - 0.5 * (around + POINTS * (mu - middle).square()) / sigma.square()
    log = log - 0.5 * (mu / 3.0).square() - 0.5 * log_sigma.square() + spread.log()
    weight = (log - log.max()).exp() / (log - log.max()).exp().sum()
    both = mu, sigma.expand_as(mu)
    mean = torch.stack([(weight * value).sum() for value in both])
    sd = torch.stack([(weight * (value - m).square()).sum().sqrt() for value, m in zip(both, mean, strict=True)])
    return mean, sd


def planted(times: int) -> list[dict[str, Any]]:
    """How often each verdict was given, for each planted error."""
    here = load_module(Path(__file__).parents[1] / "tests" / "trust" / "test_here.py")
    rows = []
    for fault in PLANTED:
        simulator = here.Linear()
        posterior, found = here.Gaussian(simulator, **fault), Counter[str]()
        for seed in range(times):
            generator = torch.Generator().manual_seed(seed)
            x = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
            found[_verdict(posterior, simulator, x, generator)] += 1
        said = ", ".join(f"{key} {value}" for key, value in fault.items()) or "exact"
        rows.append(
            {"planted": said, **{level: found[level] / times for level in ("good", "unknown", "caution", "alarm")}}
        )
    return rows


def _verdict(posterior: Posterior, simulator: Simulator, x: Any, generator: torch.Generator) -> str:
    theta = posterior.draw_batched(x, 2_000, generator=generator)[:, 0]
    around = simulate_around(posterior, simulator, theta, rows=ROWS, generator=generator)
    local = None if around is None else look_here(posterior, x, around, generator=generator)
    return "unknown" if local is None else verdict(local, posterior.prior.names).level


def trained(kind: str, simulations: int, times: int, seed: int) -> dict[str, Any]:
    """Verdicts of one network beside what is exact."""
    simulator = Points(kind)
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(simulator, Path(folder) / "s", simulations, seed=seed, progress=False)
        estimator = Flow(simulator.prior, simulator.observables, seed=seed)
        posterior = build_posterior(train(estimator, store, Path(folder) / "f"))
        observed = simulate(simulator, Path(folder) / "o", times, seed=seed + 1, progress=False).load().x["x"]
    wrong, right = Counter[str](), Counter[str]()
    worst = []
    for i, x in enumerate(observed):
        generator = torch.Generator().manual_seed(i)
        mean, sd = exact(x)
        draws = posterior.draw_batched({"x": x[None]}, 10_000, generator=generator)[:, 0].double()
        off, ratio = ((draws.mean(0) - mean) / sd).abs(), draws.std(0) / sd
        worst.append(float(off.max()))
        bad = bool((off > 0.15).any() | (ratio > 1.1).any() | (ratio < 0.9).any())
        (wrong if bad else right)[_verdict(posterior, simulator, {"x": x[None]}, generator)] += 1
    return {
        "network": kind, "simulations": simulations, "median off, sd": float(np.median(worst)), "wrong": wrong.total(),
        "told": wrong["alarm"] + wrong["caution"], "right": right.total(), "alarm": right["alarm"],
        "caution": right["caution"],
    }  # fmt: skip


def main() -> None:
    """Run it."""
    torch.set_num_threads(1)
    options = arguments(str(__doc__).splitlines()[0]).parse_args()
    times = 40 if options.quick else 200
    rows = planted(times)
    by_name = {row["planted"]: row for row in rows}
    slack = 3 * math.sqrt(0.01 * 0.99 / times)
    checks = [check("exact: share of alarms", by_name["exact"]["alarm"], 0.01 + slack)]
    for name, least in (("used 6", 0.95), ("used 14", 0.95), ("shift 0.4", 0.95), ("width 0.7", 0.95)):
        checks.append(check(f"{name}: share without alarm", 1 - by_name[name]["alarm"], 1 - least))
    networks = [
        trained(kind, 5_000 if options.quick else 20_000, 10 if options.quick else 40, options.seed)
        for kind in ("set", "vector", "statistics")
    ]
    silent = sum(row["wrong"] - row["told"] for row in networks) / max(1, sum(row["wrong"] for row in networks))
    false = sum(row["alarm"] for row in networks) / max(1, sum(row["right"] for row in networks))
    checks.append(check("networks: wrong answers without alarm or caution", silent, 0.2 if options.quick else 0.1))
    checks.append(check("networks: right answers with alarm", false, 0.2 if options.quick else 0.1))
    print(table(rows))
    finish(networks, checks, options.json)


if __name__ == "__main__":
    main()
