"""Eight values with heavy-tailed noise, Student's t of one and a half degrees of freedom."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Normal, Observable, Prior, Simulator
from sciinf.core import X

DEGREES = 1.5


class Outliers(Simulator):
    """A place and a scale under heavy-tailed noise."""

    name = "verdict_outliers"
    prior = Prior(place=Normal(0.0, 5.0), scale=LogNormal(0.0, 0.5))
    observables = {"x": Observable((8,), dims=("channel",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        normal = torch.randn(len(theta), 8, generator=generator, dtype=torch.float64)
        half = torch.full((len(theta), 8), DEGREES / 2, dtype=torch.float64)
        chi = 2 * torch._standard_gamma(half, generator=generator)
        noise = normal / (chi / DEGREES).sqrt()
        return {"x": (theta[:, :1] + theta[:, 1:] * noise).to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        return td.StudentT(DEGREES, theta[:, :1], theta[:, 1:]).log_prob(x["x"].double()).sum(1)


simulator = Outliers()
