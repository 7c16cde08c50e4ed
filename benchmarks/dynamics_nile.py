"""The annual volume of the Nile, real: a part of `dynamics.py`.

The reference is a grid over both sds, with Kalman's likelihood, and the exact law of the level at each of its points.
A network is trained on simulations; its draws are weighted by the exact likelihood, and by one that only particles
give. The level's bands are those of one path for each draw.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from dynamics_level import nile_by_both
from reporting import check, clock
from torch import Tensor

from sciinf import Flow, build_posterior, simulate, train
from sciinf.simulators.dynamics.state_space import Record
from sciinf.simulators.samplers import kalman

Rows = list[dict[str, Any]]
POINTS, HIGHEST = 160, (260.0, 160.0)  # of the grid, along each sd
PATHS = {"exact": 20_000, "particles": 8_000}  # so that chance moves no quantile of 100 levels by .1 or .15 sd
LEVELS = (0.025, 0.5, 0.975)


def nile(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Both answers against the grid."""
    exact, estimated, record = nile_by_both()
    reference = _grid(exact, record, options.seed)
    started = clock("cpu")
    store = simulate(exact, out / "store", 3_000 if options.quick else 10_000, seed=options.seed)
    fit: Any = train(Flow(exact.prior, exact.observables, seed=options.seed), store, out / "fit", seed=options.seed)
    spent = clock("cpu") - started
    rows: Rows = [{"answer": "grid", **_words(reference)}]
    checks: Rows = [check("nile: simulations and training, CPU s", spent, 240.0)]
    bounds = {"exact": (0.1, 0.05, 0.1), "particles": (0.15, 0.1, 0.15)}
    for name, simulator in (("exact", exact), ("particles", estimated)):
        started = clock("cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draws: Any = build_posterior(fit, simulator, ess=4_000, budget=60_000).draw(
                record, 4_000, generator=torch.Generator().manual_seed(options.seed)
            )
        took = clock("cpu") - started
        generator = torch.Generator().manual_seed(options.seed + 1)
        paths = simulator.smooth(draws.resample(PATHS[name], generator=generator), record, generator=generator)[..., 0]
        bands = torch.quantile(paths.double(), torch.tensor(LEVELS, dtype=torch.float64), dim=0)
        found = {"mean": draws.mean(), "sd": draws.sd(), "log Z": draws.log_evidence, "bands": bands}
        mean, ratio, band = (bound * (2.0 if options.quick else 1.0) for bound in bounds[name])
        off = _apart(found, reference)
        rows.append({"answer": name, **_words(found), "ESS": draws.ess, "draws": len(draws), "s": took, **off})
        checks += [
            check(f"nile, {name}: means off, in sds", off["means off"], mean),
            check(f"nile, {name}: sds off", off["sds off"], ratio),
            check(f"nile, {name}: log evidence off", off["log Z off"], 0.1),
            check(f"nile, {name}: bands of the level off, in sds", off["bands off"], band),
        ]
    rows[0] |= dict.fromkeys(rows[1].keys() - rows[0].keys(), "-")
    return rows, checks


def _grid(exact: Any, record: dict[str, Tensor], seed: int) -> dict[str, Any]:
    """Means, sds, log evidence and bands of the level."""
    axes = [(torch.arange(POINTS, dtype=torch.float64) + 0.5) * high / POINTS for high in HIGHEST]
    theta = torch.cartesian_prod(*axes)
    log = exact.log_likelihood(theta, record) + exact.prior.log_prob(theta)
    area = math.prod(HIGHEST) / POINTS**2
    weight = log.softmax(0)
    mean = weight @ theta
    sd = (weight @ (theta - mean).square()).sqrt()
    # the level at each point is normal: bands by draws of these
    generator = torch.Generator().manual_seed(seed)
    points = theta[torch.multinomial(weight, 20_000, replacement=True, generator=generator)]
    seen = Record(exact.times[None], {"volume": record["volume"].double().expand(len(points), -1)}, {})
    found = kalman.filtered(exact.model, dict(zip(exact.prior.names, points.T, strict=True)), seen)
    means, variances = kalman.smoothed(found)
    levels = means[..., 0] + variances[..., 0, 0].sqrt() * torch.randn(means.shape[:2], generator=generator).double()
    bands = torch.quantile(levels, torch.tensor(LEVELS, dtype=torch.float64), dim=0)
    return {
        "mean": mean,
        "sd": sd,
        "log Z": float(log.logsumexp(0)) + math.log(area),
        "bands": bands,
        "sd of level": levels.std(0),
        "edge": float(weight.reshape(POINTS, POINTS)[-1].sum() + weight.reshape(POINTS, POINTS)[:, -1].sum()),
    }


def _words(found: dict[str, Any]) -> dict[str, Any]:
    (noise, level), (noise_sd, level_sd) = found["mean"].tolist(), found["sd"].tolist()
    return {
        "sd_noise": f"{noise:.1f} +- {noise_sd:.1f}",
        "sd_level": f"{level:.1f} +- {level_sd:.1f}",
        "log Z": found["log Z"],
    }


def _apart(found: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    return {
        "means off": float(((found["mean"] - reference["mean"]) / reference["sd"]).abs().max()),
        "sds off": float((found["sd"] / reference["sd"] - 1).abs().max()),
        "log Z off": abs(float(found["log Z"]) - reference["log Z"]),
        "bands off": float(((found["bands"] - reference["bands"]) / reference["sd of level"]).abs().max()),
    }
