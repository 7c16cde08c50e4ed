"""Drift-diffusion of 200 trials: the response time and the choice of each.

Evidence starts at `bias` times the distance between two bounds, drifts, and ends a trial where it meets one of them;
`delay` is what a response takes besides. Densities of the first passage are the series for short and for long times.

References:
    | Fast and accurate calculations for first-passage times in Wiener diffusion models (Navarro & Fuss, 2009),
      https://doi.org/10.1016/j.jmp.2009.02.003
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf import Observable, Prior, Simulator, Uniform
from sciinf.core import X

TRIALS, CELLS = 200, 400
_SHORT = 0.25  # in units of the squared distance of the bounds


def lower(t: Tensor, drift: Tensor, boundary: Tensor, bias: Tensor) -> Tensor:
    """Log density of ending at the lower bound at time t."""
    u = (t / boundary**2).clamp_min(1e-9)[..., None]
    at = bias[..., None] + 2 * torch.arange(-5, 6, dtype=torch.float64)
    short = (at * torch.exp(-(at**2) / (2 * u))).sum(-1) / (2 * math.pi * u[..., 0] ** 3).sqrt()
    k = torch.arange(1, 8, dtype=torch.float64)
    long = math.pi * (k * torch.exp(-((k * math.pi) ** 2) * u / 2) * torch.sin(k * math.pi * bias[..., None])).sum(-1)
    density = torch.where(u[..., 0] < _SHORT, short, long).clamp_min(1e-300)
    return density.log() - 2 * boundary.log() - drift * boundary * bias - drift**2 * t / 2


class Trials(Simulator):
    """Response times and choices, drawn from their exact law on a grid of times."""

    name = "drift_diffusion"
    prior = Prior(
        drift=Uniform(-2.0, 2.0), boundary=Uniform(0.6, 2.0), bias=Uniform(0.3, 0.7), delay=(Uniform(0.1, 0.4), "s")
    )
    observables = {
        "time": Observable((TRIALS,), "s", dims=("item",)),
        "choice": Observable((TRIALS,), dims=("item",)),
    }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        drift, boundary, bias, delay = (theta.double()[:, k : k + 1] for k in range(4))
        grid = torch.linspace(0, 1, CELLS, dtype=torch.float64) ** 2 * (8 * boundary**2) + 1e-6
        ends = lower(grid, drift, boundary, bias), lower(grid, -drift, boundary, 1 - bias)
        density = torch.stack(ends, 1).exp()
        cells = (density[..., 1:] + density[..., :-1]) / 2 * grid.diff(dim=1)[:, None]
        law = cells.flatten(1).cumsum(1)
        draws = torch.rand(2, len(theta), TRIALS, generator=generator, dtype=torch.float64)
        place = torch.searchsorted(law, draws[0] * law[:, -1:]).clamp(max=law.shape[1] - 1)
        choice, cell = place // (CELLS - 1), place % (CELLS - 1)
        before, after = grid.gather(1, cell), grid.gather(1, cell + 1)
        time = before + (after - before) * draws[1] + delay
        return {"time": time.to(theta.dtype), "choice": choice.to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 4), float64."""
        drift, boundary, bias, delay = (theta.double()[:, k : k + 1] for k in range(4))
        time, upper = x["time"].double() - delay, (x["choice"] > 0.5).expand(len(theta), -1)
        start = torch.where(upper, 1 - bias, bias)
        log = lower(time.clamp_min(1e-6), torch.where(upper, -drift, drift), boundary.expand_as(start), start)
        return torch.where(time > 0, log, -1e6).sum(1)


simulator = Trials()
