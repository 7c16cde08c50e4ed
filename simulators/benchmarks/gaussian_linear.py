r"""Gaussian linear: the mean of a ten-dimensional Gaussian under a Gaussian prior.

    theta ~ N(0, 0.1 I_10),     x ~ N(theta, 0.1 I_10),

so that theta | x ~ N(x / 2, 0.05 I_10). Both 0.1 are variances.

References: Benchmarking simulation-based inference, task T.1 (Lueckmann et al., 2021), https://arxiv.org/abs/2101.04653;
constants as in https://github.com/sbi-benchmark/sbibm
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Observation, Prior, Simulator, X, read_observation

VARIANCE = 0.1


class GaussianLinear(Simulator):
    """A ten-dimensional Gaussian with unknown mean."""

    name = "gaussian_linear"
    prior = Prior(**{f"theta_{i}": td.Normal(0.0, math.sqrt(VARIANCE)) for i in range(1, 11)})
    observables: Mapping[str, Observable] = {"x": Observable((10,), "", ("feature",))}
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": theta + math.sqrt(VARIANCE) * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        square = ((x["x"].to(theta) - theta) ** 2).sum(-1)
        return -0.5 * square / VARIANCE - 5 * math.log(2 * math.pi * VARIANCE)

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, 10, generator=generator)
        return x["x"].reshape(1, 10).cpu() / 2 + math.sqrt(VARIANCE / 2) * noise

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 to data_10."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


simulator = GaussianLinear()
