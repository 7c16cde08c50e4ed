"""Photon counts of a line over a known background, thirty channels, and their likelihood."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Observable, Prior, Simulator, Uniform
from sciinf.core import X

BACKGROUND, WIDTH = 2.0, 1.5
CHANNELS = torch.arange(30, dtype=torch.float64)


class Photons(Simulator):
    """Poisson counts of a Gaussian spectral line."""

    name = "verdict_photons"
    prior = Prior(flux=LogNormal(3.0, 0.7), place=Uniform(5.0, 25.0))
    observables = {"counts": Observable((30,), dims=("channel",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"counts": torch.poisson(rate(theta), generator=generator)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:  # type: ignore[override]
        return td.Poisson(rate(theta.double())).log_prob(x["counts"].double()).sum(1)


def rate(theta: Tensor) -> Tensor:
    """Expected counts, (batch, 30)."""
    off = (CHANNELS.to(theta) - theta[:, 1:]) / WIDTH
    return BACKGROUND + theta[:, :1] * (-0.5 * off.square()).exp() / (2.507 * WIDTH)


simulator = Photons()
