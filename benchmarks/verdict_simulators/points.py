"""Twenty exchangeable normal points with unknown mean and sd, and their likelihood."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Normal, Observable, Prior, Simulator
from sciinf.core import X


class Points(Simulator):
    """A set of normal points."""

    name = "verdict_points"
    prior = Prior(mu=Normal(0.0, 3.0), sigma=LogNormal(0.0, 1.0))
    observables = {"x": Observable((20,), dims=("item",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 20, generator=generator, dtype=theta.dtype)
        return {"x": theta[:, :1] + theta[:, 1:] * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:  # type: ignore[override]
        theta = theta.double()
        return td.Normal(theta[:, :1], theta[:, 1:]).log_prob(x["x"].double()).sum(1)


simulator = Points()
