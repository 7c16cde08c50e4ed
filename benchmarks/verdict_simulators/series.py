"""An autoregressive series of twenty values with unknown memory, noise and mean."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Normal, Observable, Prior, Simulator, Uniform
from sciinf.core import X

LENGTH = 20


class Series(Simulator):
    """A stationary autoregression of first order."""

    name = "verdict_series"
    prior = Prior(memory=Uniform(-1.0, 1.0), sigma=LogNormal(0.0, 0.5), mean=Normal(0.0, 2.0))
    observables = {"x": Observable((LENGTH,), dims=("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        memory, sigma, mean = theta.unbind(1)
        noise = sigma[:, None] * torch.randn(len(theta), LENGTH, generator=generator, dtype=theta.dtype)
        values = [noise[:, 0] / (1 - memory.square()).clamp_min(1e-12).sqrt()]
        for t in range(1, LENGTH):
            values.append(memory * values[-1] + noise[:, t])
        return {"x": mean[:, None] + torch.stack(values, dim=1)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 3), float64."""
        memory, sigma, mean = theta.unbind(1)
        off = x["x"].double().reshape(-1)
        first = td.Normal(mean, sigma / (1 - memory.square()).sqrt()).log_prob(off[0])
        # the squares of the later steps, expanded so that a grid of a million points needs no row of the series
        a, b = off[1:], off[:-1]
        shift, n = mean * (1 - memory), LENGTH - 1
        squares = a @ a - 2 * memory * (a @ b) + memory.square() * (b @ b)
        squares = squares - 2 * shift * (a.sum() - memory * b.sum()) + n * shift.square()
        return first - n * sigma.log() - 0.5 * squares / sigma.square()


simulator = Series()
