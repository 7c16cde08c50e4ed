"""How often the rate of coal-mine disasters changed: a part of `discrete.py`.

Against the sum over all places of the changes (`simulators/coal_mines.py`): probabilities on fresh records, and of the
real one what the network says, and what the likelihood makes of it.
"""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check, clock

from sciinf import Mixed, build_posterior, load_simulator, simulate, train
from sciinf.core.simulator import load_module
from sciinf.networks.summaries import MLP

RECORDS, SIMULATIONS = 300, 480_000


def coal(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Fresh records, and the real one."""
    simulator: Any = load_simulator(SIMULATORS / "coal_mines.py")
    exact = sys.modules[type(simulator).__module__]
    wide = 4.0 if options.quick else 1.0
    store = simulate(simulator, out / "store", 20_000 if options.quick else SIMULATIONS, seed=options.seed)
    pipeline = load_module(SIMULATORS.parent / "pipelines" / "coal_mines.py")
    known: Any = {"summary": MLP(), "changes": pipeline.CHANGES, "seed": options.seed}
    estimator = Mixed(simulator.prior, simulator.observables, **known)
    started = clock("cpu")
    fit: Any = train(estimator, store, out / "fit", recipe=pipeline.RECIPE, seed=options.seed)
    spent = clock("cpu") - started

    generator = torch.Generator().manual_seed(options.seed + 1_000_003)
    records = simulator(simulator.prior.sample(RECORDS, generator=generator), generator=generator)
    truth = exact.log_evidence(records["disasters"]).softmax(-1)
    said = fit.estimator.condition(records).log_probabilities("k").double().exp()
    apart = (said - truth).abs().sum(-1) / 2
    rows: list[dict[str, Any]] = [{"training s": spent, "TV mean": float(apart.mean()), "TV max": float(apart.max())}]
    checks = [
        check("coal: training CPU s", spent, 250.0),
        check("coal, fresh records: mean total variation of P(k)", rows[0]["TV mean"], 0.04 * wide),
        check("coal, fresh records: largest", rows[0]["TV max"], min(1.0, 0.3 * wide)),
    ]
    return _record(simulator, exact, fit, options, rows, checks, wide)


def _record(
    simulator: Any, exact: Any, fit: Any, options: Any, rows: list[Any], checks: list[Any], wide: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    x = {k: v[None] for k, v in simulator.observe(SIMULATORS / "coal_mines_1851.csv").items()}
    log_evidence = exact.log_evidence(x["disasters"])[0]
    truth, whole = log_evidence.softmax(0), float(log_evidence.logsumexp(0)) - math.log(4)
    raw = fit.estimator.condition(x).log_probabilities("k").double().exp()[0]
    started = clock("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws: Any = build_posterior(fit, simulator, ess=5_000, budget=400_000).draw(
            x, 20_000, generator=torch.Generator().manual_seed(options.seed)
        )
    spent = clock("cpu") - started
    corrected = torch.stack([draws.weights[draws.theta[:, 0] == k].sum() for k in range(4)])
    reference = exact.draws(x["disasters"][0], 40_000, torch.Generator().manual_seed(1))
    shift, ratio = _one_change(draws.theta, draws.weights, reference)
    for name, p in (("exact", truth), ("raw", raw), ("corrected", corrected)):
        rows.append({"1851-1962": name, **{f"P(k = {k})": float(p[k]) for k in range(4)}})
    rows[-3] |= {"log Z": whole}
    efficiency = draws.ess / len(draws)
    rows[-1] |= {"log Z": draws.log_evidence, "efficiency": efficiency, "s": spent}
    checks += [
        check("coal, 1851-1962: P(k) off by, raw", float((raw - truth).abs().max()), 0.05 * wide),
        check("coal, 1851-1962: P(k) off by, corrected", float((corrected - truth).abs().max()), 0.01 * wide),
        check("coal, 1851-1962: log evidence off by", abs(draws.log_evidence - whole), 0.05 * wide),
        check("coal, 1851-1962: first change of one, corrected, off by, in sds", shift, 0.15 * wide),
        check("coal, 1851-1962: its sd off by, corrected", abs(ratio - 1), 0.1 * wide),
        check("coal, 1851-1962: 0.1 / efficiency of weights", 0.1 / efficiency, 1.0 * wide**2),
    ]
    return rows, checks


def _one_change(theta: torch.Tensor, weights: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """Where the one change is, given that there is one: its mean off by, in sds, and its sd beside the true one."""
    true = reference[reference[:, 0] == 1][:, 1].double()
    one = theta[:, 0] == 1
    value, weight = theta[one][:, 1].double(), weights[one].double() / weights[one].sum()
    mean = (weight * value).sum()
    sd = (weight * (value - mean).square()).sum().sqrt()
    return float((mean - true.mean()).abs() / true.std()), float(sd / true.std())
