r"""SLCP: simple likelihood, complex posterior.

Four points of a plane from one Gaussian, whose covariance makes the posterior have four symmetric modes:

    theta_i ~ U(-3, 3), i = 1..5,     x = (x_1, ..., x_4) flat, x_k ~ N(m, S),     m = (theta_1, theta_2),
    S = ((s_1^2, rho s_1 s_2), (rho s_1 s_2, s_2^2)) + 1e-6 I,
    s_1 = theta_3^2,     s_2 = theta_4^2,     rho = tanh theta_5.

References: Sequential neural likelihood, appendix A.1 (Papamakarios, Sterratt, Murray, 2019),
https://arxiv.org/abs/1805.07226; Benchmarking simulation-based inference, task T.3 (Lueckmann et al., 2021),
https://arxiv.org/abs/2101.04653; constants as in https://github.com/sbi-benchmark/sbibm
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Observation, Prior, Simulator, X, read_observation

JITTER = 1e-6


class SLCP(Simulator):
    """Four draws from a two-dimensional Gaussian."""

    name = "slcp"
    prior = Prior(**{f"theta_{i}": td.Uniform(-3.0, 3.0) for i in range(1, 6)})
    observables: Mapping[str, Observable] = {"x": Observable((8,), "", ("feature",))}
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 4, 2, generator=generator, dtype=theta.dtype, device=theta.device)
        first, slope, second = (value[:, None] for value in factor(theta))
        steps = torch.stack([first * noise[..., 0], slope * noise[..., 0] + second * noise[..., 1]], dim=-1)
        return {"x": (theta[:, None, :2] + steps).flatten(1)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        first, slope, second = (value[:, None] for value in factor(theta))
        steps = x["x"].to(theta).unflatten(-1, (4, 2)) - theta[:, None, :2]
        a = steps[..., 0] / first
        b = (steps[..., 1] - slope * a) / second
        return (-0.5 * (a**2 + b**2) - first.log() - second.log() - math.log(2 * math.pi)).sum(-1)

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 to data_8."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


def factor(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries L_11, L_21, L_22 of the Cholesky factor of S for theta (batch, 5), each (batch,)."""
    s1, s2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, theta[:, 4].tanh()
    first = torch.sqrt(s1**2 + JITTER)
    slope = rho * s1 * s2 / first
    rest = s2**2 * ((1 - rho**2) * s1**2 + JITTER) / (s1**2 + JITTER)  # s2^2 - slope^2 without cancellation
    return first, slope, torch.sqrt(rest + JITTER)


simulator = SLCP()
