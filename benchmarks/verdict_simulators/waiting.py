"""Twenty-five exchangeable waiting times of Weibull's distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from sciinf import LogNormal, Observable, Prior, Simulator
from sciinf.core import X


class Waiting(Simulator):
    """A set of waiting times."""

    name = "verdict_waiting"
    prior = Prior(scale=(LogNormal(0.0, 0.8), "s"), shape=LogNormal(0.3, 0.4))
    observables = {"times": Observable((25,), "s", dims=("item",), scale="log")}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        u = torch.rand(len(theta), 25, generator=generator, dtype=torch.float64)
        times = theta[:, :1] * (-torch.log1p(-u)).pow(1 / theta[:, 1:].double())
        return {"times": times.clamp_min(1e-12).to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        scale, shape = theta[:, :1], theta[:, 1:]
        ratio = x["times"].double() / scale
        return (shape.log() - scale.log() + (shape - 1) * ratio.log() - ratio.pow(shape)).sum(1)


simulator = Waiting()
