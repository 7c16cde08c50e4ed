"""Twenty-five counts over five powers of ten: negative binomial, with unknown mean and scatter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Observable, Prior, Simulator, Uniform
from sciinf.core import X

ITEMS = 25


class Counts(Simulator):
    """Twenty-five counts over five powers of ten: negative binomial, with unknown mean and scatter."""

    name = "counts"
    prior = Prior(log_mean=Uniform(0.0, 11.0), shape=LogNormal(0.5, 0.7))
    observables = {"x": Observable((ITEMS,), dims=("item",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        mean, shape = theta[:, :1].double().exp(), theta[:, 1:].double()
        rate = torch._standard_gamma(shape.expand(-1, ITEMS).contiguous(), generator=generator) * mean / shape
        return {"x": torch.poisson(rate, generator=generator).to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        mean, shape = theta[:, :1].double().exp(), theta[:, 1:].double()
        return td.NegativeBinomial(shape, probs=mean / (mean + shape)).log_prob(x["x"].double()).sum(1)


simulator = Counts()
