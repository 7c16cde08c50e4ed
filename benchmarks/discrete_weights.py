"""What checks find of exact posteriors, and what weights need: parts of `discrete.py` (see `discrete_truth.py`)."""

from __future__ import annotations

import math
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from reporting import check, clock

from sciinf.core.simulator import load_module
from sciinf.posteriors.reweighted import Reweighted

TESTS = Path(__file__).parent.parent / "tests"
sys.path.append(str(TESTS))  # for discrete_truth.py


def alarms(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Calibrations of an exact posterior, and of such with faults."""
    discrete_truth: Any = import_module("discrete_truth")
    count, many = (5, 10) if options.quick else (20, 200)
    started = clock("cpu")
    states = discrete_truth.alarms(many, 2_000 if options.quick else discrete_truth.ROWS)
    seen = discrete_truth.power(count)
    rows = [{"exact": many, **states}, *[{"fault": name, "seen": share} for name, share in seen.items()]]
    rows.append({"s": clock("cpu") - started})
    bound = 4 if not options.quick else 2
    checks = [check(f"alarms: false ones in {many} calibrations", states["not passed"], bound)]
    checks += [check(f"alarms: {name}, 0.9 / power", 0.9 / max(p, 1e-9), 1.0) for name, p in seen.items()]
    return rows, checks


def unlisted(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Data of models that are not listed, and of listed ones."""
    discrete_truth: Any = import_module("discrete_truth")
    records = 5 if options.quick else 20
    found = discrete_truth.unlisted(records)
    rows = [{"data of": kind, **shares} for kind, shares in found.items()]
    checks = []
    for kind, shares in found.items():
        most = max(shares.values(), default=0.0)
        if kind == "listed":
            checks.append(check("unlisted: alarms for listed models", most, 0.015 if not options.quick else 0.03))
        else:
            checks.append(check(f"unlisted, {kind}: 0.9 / share with an alarm", 0.9 / max(most, 1e-9), 1.0))
    return rows, checks


def floor(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A proposal that is sure of the wrong model, with the floor and without."""
    floored: Any = import_module("sciinf.posteriors.reweighted")
    models = load_module(TESTS / "nested.py")
    simulator = models.Nested(noise=0.5)
    x = torch.tensor([[0.7, 0.9, 0.8, 1.0, 1.0, 1.2]])
    right = float(torch.sigmoid(simulator.evidences(x)[0, 1] - simulator.evidences(x)[0, 0]))
    off = math.log(1e-6) - math.log(right / (1 - right))
    rows, before = list[dict[str, Any]](), floored.FLOOR
    try:
        for share in (before, 0.0):
            floored.FLOOR = share
            posterior = Reweighted(models.Exact(simulator, odds=off), simulator, ess=5_000, budget=100_000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                draws = posterior.draw({"x": x}, 20_000, generator=torch.Generator().manual_seed(options.seed))
            p = float(draws.weights[draws.theta[:, 0] == 1].sum())
            rows.append({"floor": share, "P(line), exact": right, "proposal": 1e-6, "corrected": p})
    finally:
        floored.FLOOR = before
    with_it, without = (abs(row["corrected"] - right) for row in rows)
    return rows, [
        check("floor: corrected off by", with_it, 0.02),
        check("floor: without it the error is seen: 0.1 / error", 0.1 / max(without, 1e-9), 1.0),
    ]
