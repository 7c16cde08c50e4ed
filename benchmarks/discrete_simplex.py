"""The minerals of a rock, fractions of a whole, against the exact Dirichlet law: a part of `discrete.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check, clock
from torch import Tensor

from sciinf import Flow, Mixed, load_simulator, simulate, train

OBSERVATIONS, DRAWS = 400, 4_000


def simplex(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Means, sds and coverage of a flow and of the chain."""
    simulator: Any = load_simulator(SIMULATORS / "mineral_fractions.py")
    store = simulate(simulator, out / "store", 20_000 if options.quick else 60_000, seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed + 9)
    theta = simulator.prior.sample(OBSERVATIONS, generator=generator)
    x = simulator(theta, generator=generator)
    exact, rows, checks = simulator.exact(x), [], []
    wide = 3.0 if options.quick else 1.0
    for kind in (Flow, Mixed):
        started = clock("cpu")
        fit = train(kind(simulator.prior, simulator.observables), store, out / kind.__name__, seed=options.seed)
        spent, density = clock("cpu") - started, fit.estimator.density(x)
        draws = density.sample(DRAWS, generator=generator).double()
        row: dict[str, Any] = {"estimator": kind.__name__, "training s": spent}
        row["mean off, sd"] = float(((draws.mean(0) - exact.mean) / exact.stddev).abs().mean())
        row["sd ratio"] = float((draws.std(0) / exact.stddev).mean())
        row["coverage off"] = float(_coverage(draws, exact))
        row["whole off"] = float((draws.sum(-1) - 1).abs().max())
        rows.append(row)
        checks += [
            check(f"simplex, {kind.__name__}: means off by, in sds, on average", row["mean off, sd"], 0.05 * wide),
            check(f"simplex, {kind.__name__}: sd ratio off 1 by", abs(row["sd ratio"] - 1), 0.05 * wide),
            check(f"simplex, {kind.__name__}: coverage of intervals off by, points", row["coverage off"], 1.5 * wide),
            check(f"simplex, {kind.__name__}: the whole off 1 by", row["whole off"], 1e-5),
        ]
    return rows, checks


def _coverage(draws: Tensor, exact: Any) -> float:
    """In points: what the exact laws give to central intervals of draws, at 50, 80 and 95 %, at worst, on average."""
    from scipy import stats

    worst = 0.0
    alpha = exact.concentration
    rest = alpha.sum(-1, keepdim=True) - alpha
    for level in (0.5, 0.8, 0.95):
        ends = [draws.quantile(q, dim=0).numpy() for q in ((1 - level) / 2, (1 + level) / 2)]
        low, high = (stats.beta.cdf(end, alpha.numpy(), rest.numpy()) for end in ends)
        worst = max(worst, float(abs((high - low).mean(0) - level).max()))
    return 100 * worst
