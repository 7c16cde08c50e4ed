"""A hundred draws of the g-and-k distribution, of which the quantiles are known and not the density.

References:
    | A comparison of likelihood-free methods for g-and-k (Allingham, King & Mengersen, 2009),
      https://doi.org/10.1007/s11222-008-9083-x
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Observable, Prior, Simulator, Uniform
from sciinf.core import X

ITEMS, C = 100, 0.8
_STEPS, _FAR = 60, 8.0  # of the bisection, and its ends


def quantile(z: Tensor, theta: Tensor) -> Tensor:
    """The quantile at a standard normal number z (n, items), for parameters (n, 4)."""
    a, b, g, k = (theta[:, column : column + 1] for column in range(4))
    return a + b * (1 + C * torch.tanh(g * z / 2)) * (1 + z**2) ** k * z


class GAndK(Simulator):
    """Location, scale, skewness and weight of the tails."""

    name = "g_and_k"
    prior = Prior(A=Uniform(0.0, 10.0), B=Uniform(0.0, 10.0), g=Uniform(0.0, 10.0), k=Uniform(0.0, 10.0))
    observables = {"x": Observable((ITEMS,), dims=("item",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        z = torch.randn(len(theta), ITEMS, generator=generator, dtype=torch.float64)
        return {"x": quantile(z, theta.double()).to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 4), float64."""
        theta, target = theta.double(), x["x"].double()
        low = torch.full((len(theta), ITEMS), -_FAR, dtype=torch.float64)
        high = -low
        for _ in range(_STEPS):
            middle = (low + high) / 2
            below = quantile(middle, theta) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        z, (_, b, g, k) = (low + high) / 2, (theta[:, column : column + 1] for column in range(4))
        skew, tail, t = 1 + C * torch.tanh(g * z / 2), 1 + z**2, torch.tanh(g * z / 2)
        slope = b * tail**k * (skew * (1 + (2 * k + 1) * z**2) / tail + C * g * z * (1 - t**2) / 2)
        log = td.Normal(0.0, 1.0).log_prob(z) - slope.log()
        return torch.where(z.abs() < _FAR - 1e-6, log, -1e3).sum(1)


simulator = GAndK()
