"""Thirty concentrations over six powers of ten: lognormal, with unknown middle and spread."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Observable, Prior, Simulator, Uniform
from sciinf.core import X

ITEMS = 30


class Decades(Simulator):
    """Thirty concentrations over six powers of ten: lognormal, with unknown middle and spread."""

    name = "decades"
    prior = Prior(middle=Uniform(-7.0, 7.0), spread=Uniform(0.3, 2.0))
    observables = {"x": Observable((ITEMS,), dims=("item",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), ITEMS, generator=generator, dtype=torch.float64)
        return {"x": (theta[:, :1].double() + theta[:, 1:].double() * noise).exp().to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        return td.LogNormal(theta[:, :1].double(), theta[:, 1:].double()).log_prob(x["x"].double()).sum(1)


simulator = Decades()
