"""Which of three trends a record of twelve values has: none, a line or a curve; and the likelihood."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Choice, Normal, Observable, Only, Prior, Simulator
from sciinf.core import X

AT = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)
NOISE = 0.7


class Trend(Simulator):
    """A level, a slope in the models "line" and "curve", and a curvature in "curve"."""

    name = "verdict_trend"
    prior = Prior(
        model=Choice("flat", "line", "curve"),
        level=Normal(0.0, 1.0),
        slope=Only(Normal(0.0, 1.0), model=["line", "curve"]),
        curvature=Only(Normal(0.0, 1.5), model="curve"),
    )
    observables = {"y": Observable((12,), dims=("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 12, generator=generator, dtype=theta.dtype)
        return {"y": mean(theta) + NOISE * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:  # type: ignore[override]
        return td.Normal(mean(theta.double()), NOISE).log_prob(x["y"].double()).sum(1)


def mean(theta: Tensor) -> Tensor:
    """The trend, (batch, 12)."""
    at, theta = AT.to(theta), theta.nan_to_num(0.0)
    return theta[:, 1:2] + theta[:, 2:3] * at + theta[:, 3:] * (at.square() - 0.4)


simulator = Trend()
