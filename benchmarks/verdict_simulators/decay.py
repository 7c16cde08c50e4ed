"""A decay with bounded rate and amplitude at ten times, and its likelihood."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Observable, Prior, Simulator, Uniform
from sciinf.core import X

NOISE = 0.1
TIMES = torch.linspace(0.0, 4.5, 10, dtype=torch.float64)


class Decay(Simulator):
    """An exponential decay with normal noise."""

    name = "verdict_decay"
    prior = Prior(rate=(Uniform(0.0, 2.0), "1/h"), amplitude=(Uniform(0.0, 1.0), "mV"))
    observables = {"v": Observable((10,), "mV", dims=("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 10, generator=generator, dtype=theta.dtype)
        return {"v": curve(theta) + NOISE * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:  # type: ignore[override]
        return td.Normal(curve(theta.double()), NOISE).log_prob(x["v"].double()).sum(1)


def curve(theta: Tensor) -> Tensor:
    """The voltage without noise, (batch, 10)."""
    return theta[:, 1:] * (-theta[:, :1] * TIMES.to(theta)).exp()


simulator = Decay()
