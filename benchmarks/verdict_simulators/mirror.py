"""Two numbers seen only through their product and the difference of their squares: both signs fit, so two modes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Normal, Observable, Prior, Simulator
from sciinf.core import X

NOISE = 0.3


class Mirror(Simulator):
    """The square of a complex number, with noise."""

    name = "verdict_mirror"
    prior = Prior(a=Normal(0.0, 1.0), b=Normal(0.5, 1.0))
    observables = {"x": Observable((2,), dims=("channel",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 2, generator=generator, dtype=theta.dtype)
        return {"x": square(theta) + NOISE * noise}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        return td.Normal(square(theta), NOISE).log_prob(x["x"].double()).sum(1)


def square(theta: Tensor) -> Tensor:
    """(a^2 - b^2, 2 a b) / 2, (batch, 2)."""
    a, b = theta.unbind(1)
    return torch.stack([(a.square() - b.square()) / 2, a * b], dim=1)


simulator = Mirror()
