"""Forty draws of a Cauchy distribution, with unknown location and scale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Observable, Prior, Simulator, Uniform
from sciinf.core import X

ITEMS = 40


class Cauchy(Simulator):
    """Forty draws of a Cauchy distribution, with unknown location and scale."""

    name = "cauchy"
    prior = Prior(location=Uniform(-10.0, 10.0), scale=LogNormal(0.0, 1.0))
    observables = {"x": Observable((ITEMS,), dims=("item",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        over, under = torch.randn(2, len(theta), ITEMS, generator=generator, dtype=torch.float64)
        return {"x": (theta[:, :1].double() + theta[:, 1:].double() * over / under).to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        return td.Cauchy(theta[:, :1].double(), theta[:, 1:].double()).log_prob(x["x"].double()).sum(1)


simulator = Cauchy()
