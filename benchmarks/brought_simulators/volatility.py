r"""Two hundred daily returns whose variance remembers: x_t = s_t e_t, s_t^2 = w + a x_{t-1}^2 + b s_{t-1}^2.

Parameters are the variance in the long run v, the memory m = a + b, and the share r of m that is a: w = v (1 - m).

References:
    | Generalized autoregressive conditional heteroskedasticity (Bollerslev, 1986),
      https://doi.org/10.1016/0304-4076(86)90063-1
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Observable, Prior, Simulator, Uniform
from sciinf.core import X

DAYS = 200


class Volatility(Simulator):
    """Returns, which begin with the variance of the long run."""

    name = "volatility"
    prior = Prior(variance=LogNormal(0.0, 0.7), memory=Uniform(0.2, 0.98), share=Uniform(0.05, 0.6))
    observables = {"x": Observable((DAYS,), dims=("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        v, m, r = theta.double().unbind(1)
        noise = torch.randn(len(theta), DAYS, generator=generator, dtype=torch.float64)
        variance, found = v, list[Tensor]()
        for day in range(DAYS):
            found.append(variance.sqrt() * noise[:, day])
            variance = v * (1 - m) + m * (r * found[-1] ** 2 + (1 - r) * variance)
        return {"x": torch.stack(found, 1).to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 3), float64."""
        v, m, r = theta.double().unbind(1)
        variance, log = v, torch.zeros_like(v)
        for value in x["x"][0].double():
            log = log + td.Normal(0.0, variance.sqrt()).log_prob(value)
            variance = v * (1 - m) + m * (r * value**2 + (1 - r) * variance)
        return log


simulator = Volatility()
