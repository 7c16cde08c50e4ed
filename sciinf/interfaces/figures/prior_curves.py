"""Marginal prior density of each parameter, to be drawn behind its posterior."""

from __future__ import annotations

import numpy as np
import torch
from torch import distributions as td

from sciinf.core.laws import support
from sciinf.core.prior import Prior
from sciinf.core.unknown_law import Unknown
from sciinf.interfaces.figures.corner import Curve
from sciinf.interfaces.figures.density import density_1d

_PRIOR_DRAWS = 20_000


def prior_ranges(prior: Prior | None) -> dict[str, tuple[float, float]]:
    """Central 98 % interval of each parameter's prior: name -> (low, high); empty without a prior.

    The result is also empty if the prior contains an unknown distribution (`Unknown`).
    """
    if prior is None or _unknown(prior):
        return {}
    theta = prior.sample(_PRIOR_DRAWS, generator=torch.Generator().manual_seed(0)).double().numpy()
    low, high = np.nanquantile(theta, (0.01, 0.99), axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(prior.names)}


def prior_marginals(prior: Prior | None, names: list[str], ranges: list[tuple[float, float]]) -> dict[str, Curve]:
    """Marginal prior density of each parameter over its plotting window: name -> (grid, density).

    The density is exact for a distribution of one parameter. For joint and ordered distributions, it is estimated from
    draws. Derived quantities among the names have no prior density and are left out.
    """
    if prior is None or _unknown(prior) or not set(names) & set(prior.names):
        return {}
    found: dict[str, Curve] = {}
    in_order = {name for group in prior.existence.each.values() if group.increasing for name in group.columns}
    joint = bool(in_order) or any(law.event_shape for law in prior.laws)
    sample = prior.sample(10 * _PRIOR_DRAWS if joint else 1, generator=torch.Generator().manual_seed(1)).double()
    start = 0
    for law, part in prior.bijection.parts(sample):
        width = law.event_shape[0] if law.event_shape else 1
        for offset, name in enumerate(prior.names[start : start + width]):
            if name not in names:
                continue
            window = ranges[names.index(name)]
            if not law.event_shape and name not in in_order:
                grid = torch.linspace(*window, 402, dtype=torch.float64)[1:-1]
                found[name] = grid.numpy(), _density(law, grid, part[0]).numpy()
                continue
            values = (part[:, offset] if law.event_shape else part).numpy()
            values = values[np.isfinite(values)]
            there = max(len(values), 1)  # Normalises the density over the draws in which the parameter exists.
            values = values[(values >= window[0]) & (values <= window[1])]
            if len(values) >= 500:
                grid, density = density_1d(values, np.ones(len(values)), window)
                found[name] = grid, density * len(values) / there
        start += width
    return found


def _unknown(prior: Prior) -> bool:
    return any(isinstance(law, Unknown) for law in prior.laws)


def _density(law: td.Distribution, grid: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Density of a distribution on a grid, 0 outside the support.

    `inside` is any value in the support. It stands in for grid values outside the support.
    """
    valid = support(law).check(grid)
    return torch.where(valid, law.log_prob(torch.where(valid, grid, inside)).exp(), torch.zeros(()).double())
