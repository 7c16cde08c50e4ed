"""A thrown ball measured five times: three parameters, strongly correlated, and a Gaussian posterior."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Normal, Observable, Prior, Simulator
from sciinf.core import X

NOISE = 0.5
TIMES = torch.tensor([0.2, 0.6, 1.0, 1.4, 1.8], dtype=torch.float64)
DESIGN = torch.stack([torch.ones_like(TIMES), TIMES, TIMES.square() / 2], dim=1)


class Ball(Simulator):
    """Heights of a ball, with normal noise."""

    name = "verdict_ball"
    prior = Prior(
        height=(Normal(1.5, 0.5), "m"), velocity=(Normal(8.0, 3.0), "m/s"), acceleration=(Normal(-9.0, 3.0), "m/s2")
    )
    observables = {"x": Observable((5,), "m", ("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 5, generator=generator, dtype=theta.dtype)
        return {"x": theta @ DESIGN.T.to(theta) + NOISE * noise}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 3), float64."""
        return td.Normal(theta @ DESIGN.T, NOISE).log_prob(x["x"].double()).sum(1)


simulator = Ball()
