r"""Gaussian mixture: one mean, a wide and a narrow Gaussian around it.

    theta_i ~ U(-10, 10),     x ~ 0.5 N(theta, I_2) + 0.5 N(theta, 0.01 I_2),

so that theta | x is the same mixture around x, truncated to the box; there, each component weighs what the box holds
of it. The component is drawn for every row (the benchmark's own program draws it once for a whole batch).

References: Benchmarking simulation-based inference, task T.7 (Lueckmann et al., 2021), https://arxiv.org/abs/2101.04653;
Sequential Monte Carlo without likelihoods (Sisson, Fan, Tanaka, 2007), https://doi.org/10.1073/pnas.0607208104;
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

SCALES = (1.0, 0.1)
BOUND = 10.0


class GaussianMixture(Simulator):
    """A wide and a narrow Gaussian with the same unknown mean."""

    name = "gaussian_mixture"
    prior = Prior(theta_1=td.Uniform(-BOUND, BOUND), theta_2=td.Uniform(-BOUND, BOUND))
    observables: Mapping[str, Observable] = {"x": Observable((2,), "", ("feature",))}
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        wide = torch.rand(len(theta), 1, generator=generator, device=theta.device) < 0.5
        noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": theta + torch.where(wide, *SCALES) * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        square = ((x["x"].to(theta) - theta) ** 2).sum(-1)
        parts = [-0.5 * square / s**2 - math.log(2 * math.pi * s**2) for s in SCALES]
        return torch.logaddexp(*parts) - math.log(2.0)

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        centre = x["x"].reshape(2).to("cpu", torch.float64)
        mass = [torch.special.ndtr((BOUND - centre) / s) - torch.special.ndtr((-BOUND - centre) / s) for s in SCALES]
        weights = torch.stack(mass).prod(-1)
        wide = torch.rand(n, generator=generator, dtype=torch.float64) * weights.sum() < weights[0]
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        columns = []
        for column, value in enumerate(centre.tolist()):
            laws = [Truncated(td.Normal(value, s), -BOUND, BOUND) for s in SCALES]
            draws = [inside(law, from_normal(law, noise[:, column]).float()) for law in laws]
            columns.append(torch.where(wide, *draws))
        return torch.stack(columns, dim=-1)

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 and data_2."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


simulator = GaussianMixture()
