"""The frequency and amplitude of a wave in noise: few simulations do not teach a network where the phase stands."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Observable, Prior, Simulator, Uniform
from sciinf.core import X

TIMES = torch.arange(0, 40, 2, dtype=torch.float64)


class Wave(Simulator):
    """A sine of known phase, seen at twenty times."""

    name = "verdict_wave"
    prior = Prior(frequency=(Uniform(0.05, 0.15), "Hz"), amplitude=LogNormal(0.0, 0.4))
    observables = {"x": Observable((20,), dims=("channel",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 20, generator=generator, dtype=theta.dtype)
        return {"x": wave(theta) + noise}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        return td.Normal(wave(theta), 1.0).log_prob(x["x"].double()).sum(1)


def wave(theta: Tensor) -> Tensor:
    """The wave without noise, (batch, 20)."""
    return theta[:, 1:] * (2 * math.pi * theta[:, :1] * TIMES.to(theta)).sin()


simulator = Wave()
