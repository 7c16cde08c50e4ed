r"""Gaussian linear uniform: the mean of a ten-dimensional Gaussian under a uniform prior.

    theta_i ~ U(-1, 1),     x ~ N(theta, 0.1 I_10)     (0.1 is the variance),

so that theta_i | x ~ N(x_i, 0.1) truncated to [-1, 1], independently.

References: Benchmarking simulation-based inference, task T.2 (Lueckmann et al., 2021), https://arxiv.org/abs/2101.04653;
constants as in https://github.com/sbi-benchmark/sbibm
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Observation, Prior, Simulator, Truncated, X, read_observation
from sciinf.core.laws import from_normal, inside

VARIANCE = 0.1


class GaussianLinearUniform(Simulator):
    """A ten-dimensional Gaussian whose mean lies in a box."""

    name = "gaussian_linear_uniform"
    prior = Prior(**{f"theta_{i}": td.Uniform(-1.0, 1.0) for i in range(1, 11)})
    observables: Mapping[str, Observable] = {"x": Observable((10,), "", ("feature",))}
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": theta + math.sqrt(VARIANCE) * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        square = ((x["x"].to(theta) - theta) ** 2).sum(-1)
        return -0.5 * square / VARIANCE - 5 * math.log(2 * math.pi * VARIANCE)

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, 10, generator=generator, dtype=torch.float64)
        columns = []
        for column, centre in enumerate(x["x"].reshape(10).tolist()):
            law = Truncated(td.Normal(centre, math.sqrt(VARIANCE)), -1.0, 1.0)
            columns.append(inside(law, from_normal(law, noise[:, column]).float()))
        return torch.stack(columns, dim=-1)

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 to data_10."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


simulator = GaussianLinearUniform()
