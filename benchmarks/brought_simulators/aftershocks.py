r"""Times of the aftershocks of one earthquake, from half an hour to 100 days after it: the Omori-Utsu law.

Aftershocks are a Poisson process of the rate

    n(t) = K (t + c)^{-p} per day,     t in days after the main shock.

Earlier ones are missing in the catalogue, for the waves of the main shock hide them. The expected number up to t is K
times an integral that is a power of t + c, or its logarithm for p = 1, so times are drawn by its inverse. A catalogue
has room for 400 aftershocks. More are expected nowhere in the prior, and at most 320.

References:
    | The centenary of the Omori formula for a decay law of aftershock activity (Utsu, Ogata & Matsu'ura, 1995),
      https://doi.org/10.4294/jpe1952.43.1
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinf import LogUniform, Observable, Prior, Simulator, Uniform
from sciinf.core import X

BEGIN, END = 0.02, 100.0  # days
MOST = 400  # aftershocks
_SMALL = 1e-7  # of 1 - p: below it p is 1


class Aftershocks(Simulator):
    """A catalogue: the time of each aftershock, and which entries of the catalogue there are."""

    name = "aftershocks"
    prior = Prior(K=LogUniform(3.0, 30.0), c=(LogUniform(0.005, 1.0), "d"), p=Uniform(0.8, 1.4))
    observables = {
        "time": Observable((MOST,), "d", dims=("item",), scale="log"),
        "time_mask": Observable((MOST,), dims=("item",), dtype="bool"),
    }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        k, c, p = theta.double()[:, :, None].unbind(1)
        number = torch.poisson(k * integral(c, p), generator=generator)
        power, decades = _power(p), ((END + c) / (BEGIN + c)).log()
        share = torch.rand(len(theta), MOST, generator=generator, dtype=torch.float64)
        time = (BEGIN + c) * (torch.log1p(share * torch.expm1(power * decades)) / power).exp() - c
        there = torch.arange(MOST) < number
        time = torch.where(there, time, torch.inf).sort(1).values
        return {"time": torch.where(there, time, 0.0).to(theta.dtype), "time_mask": there}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 3), float64."""
        k, c, p = theta.double()[:, :, None].unbind(1)
        time = x["time"][x["time_mask"]].double()
        rates = k.log() - p * (time + c).log()
        return rates.sum(1) - (k * integral(c, p))[:, 0]


def integral(c: Tensor, p: Tensor) -> Tensor:
    """Integral of (t + c)^{-p} over the time of the catalogue."""
    power, decades = _power(p), ((END + c) / (BEGIN + c)).log()
    return (BEGIN + c) ** power * torch.expm1(power * decades) / power


def _power(p: Tensor) -> Tensor:
    """1 - p, or a small number in the place of 0."""
    return torch.where((1 - p).abs() < _SMALL, _SMALL, 1 - p)


simulator = Aftershocks()
