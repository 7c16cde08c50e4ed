"""Priors with discrete parameters, with parameters in order, and of parts of a whole: a part of `discrete.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check
from torch import Tensor

from sciinf import Prior, load_simulator

DRAWS = 100_000
NAMES = ("coal_mines", "two_epidemics", "spectral_lines", "mineral_fractions")


def prior(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Maps to normals, and back; densities; files."""
    rows, checks = [], []
    for name in NAMES:
        law = load_simulator(SIMULATORS / f"{name}.py").prior
        theta = law.sample(20_000 if options.quick else DRAWS, generator=torch.Generator().manual_seed(options.seed))
        row: dict[str, Any] = {"prior": name, "least p of KS": _least_p(law, theta), **_there_and_back(law, theta)}
        mass, error = _mass(law, theta)
        row |= {"mass": mass, "error": error, "without k!": _mass(law, theta, _without_orders)[0]}
        again = Prior.from_json(json.loads(json.dumps(law.to_json())))
        same = bool(((again.log_prob(theta) - law.log_prob(theta)).abs() < 1e-12).all())
        rows.append(row)
        if name != "mineral_fractions":  # whose map is a smooth one, and no Gaussianising one
            checks.append(check(f"prior, {name}: 0.001 / least p of KS of any z", 1e-3 / row["least p of KS"], 1.0))
        checks.append(check(f"prior, {name}: round trip, largest error in z", row["round trip"], 1e-3))
        checks.append(check(f"prior, {name}: existence after a round trip, rows that differ", row["rows"], 0))
        checks.append(check(f"prior, {name}: mass off 1, in standard errors", abs(mass - 1) / error, 3.0))
        checks.append(check(f"prior, {name}: JSON, 0 for the same density", 0.0 if same else 1.0, 0.0))
        if law.existence.each and name != "two_epidemics":
            off = abs(row["without k!"] - 1) / error
            checks.append(check(f"prior, {name}: without k! the mass is off: 3 / standard errors", 3 / off, 1.0))
    return rows, checks


def _least_p(law: Prior, theta: Tensor) -> float:
    """Least p of a Kolmogorov-Smirnov test of each continuous number, where it exists, times how many there are."""
    from scipy import stats

    split, found = law.split(theta.double()), []
    discrete = {law.bijection.spots[k].start for k in getattr(law.bijection, "levels", {})}
    for spot in set(range(law.bijection.size)) - discrete:
        z = split.z[:, spot][split.present[:, spot]]
        found.append(float(stats.kstest(z.numpy(), "norm").pvalue))
    return min(1.0, min(found) * len(found))


def _there_and_back(law: Prior, theta: Tensor) -> dict[str, float]:
    """The largest error in z of z -> theta -> z, and rows in which something else exists after theta -> z -> theta."""
    z, _ = law.split(theta.double())
    inside = (z.abs() < 5).all(-1)  # beyond, float64 has few digits of probabilities
    again = law.join(z)
    error = (law.split(again).z - z).abs()[inside].max()
    return {
        "round trip": float(error),
        "rows": float((again.isnan() != theta.isnan()).any(-1).sum() + (law.present(again) != ~again.isnan()).sum()),
    }


def _without_orders(law: Prior, theta: Tensor) -> Tensor:
    """log k! of each group of parameters in order."""
    total = torch.zeros(len(theta), dtype=torch.float64)
    for group in law.existence.each.values():
        if group.increasing:
            columns = [law.names.index(name) for name in group.columns]
            total += torch.lgamma((~theta[:, columns].isnan()).sum(-1).double() + 1)
    return total


def _mass(law: Prior, theta: Tensor, less: Any = None) -> tuple[float, float]:
    """The integral of the density, by draws of wider z and of discrete values that are equally likely; its error."""
    generator = torch.Generator().manual_seed(1)
    z = law.split(theta.double()).z.clone()
    levels = getattr(law.bijection, "levels", {})
    discrete = torch.zeros(law.bijection.size, dtype=torch.bool)
    log_q = torch.zeros(len(z), dtype=torch.float64)
    for k, of in levels.items():
        spot = law.bijection.spots[k].start
        discrete[spot] = True
        z[:, spot] = torch.randint(len(of.values), (len(z),), generator=generator).double()
        log_q -= math.log(len(of.values))
    wide = 1.3 * torch.randn(z.shape, generator=generator, dtype=torch.float64)
    theta = law.join(torch.where(discrete, z, wide))
    split = law.split(theta)
    each = -0.5 * (split.z / 1.3).square() - math.log(1.3 * math.sqrt(2 * math.pi))
    log_q = log_q + torch.where(split.present & ~discrete, each, 0.0).sum(-1) + law.log_jacobian(theta)
    log_p = law.log_prob(theta) - (less(law, theta) if less else 0.0)
    weight = (log_p - log_q).exp()
    return float(weight.mean()), float(weight.std() / len(weight) ** 0.5)
