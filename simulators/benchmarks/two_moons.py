r"""Two moons: a posterior of two crescents, each with fine structure of its own.

    theta_i ~ U(-1, 1),     a ~ U(-pi/2, pi/2),     r ~ N(0.1, 0.01^2),
    x = (r cos a + 1/4, r sin a) + (-|theta_1 + theta_2|, -theta_1 + theta_2) / sqrt 2.

With p = x - (-|theta_1 + theta_2|, -theta_1 + theta_2) / sqrt 2 and rho its distance from (1/4, 0), the likelihood is
N(rho; 0.1, 0.01^2) / (pi rho) where p_1 > 1/4 and zero elsewhere. (The benchmark's own likelihood leaves out pi rho;
its reference draws do not.) The map from (theta_1 + theta_2, theta_2 - theta_1) / sqrt 2 to p keeps areas, so a
posterior draw is a p drawn as above with |theta_1 + theta_2| = sqrt 2 (p_1 - x_1), a sign for theta_1 + theta_2, and
what of it lies in the prior.

References: Automatic posterior transformation for likelihood-free inference, appendix A.5.2 (Greenberg, Nonnenmacher,
Macke, 2019), https://arxiv.org/abs/1905.07488; Benchmarking simulation-based inference, task T.8 (Lueckmann et al.,
2021), https://arxiv.org/abs/2101.04653; constants as in https://github.com/sbi-benchmark/sbibm
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Observation, Prior, Simulator, X, read_observation

RADIUS, WIDTH, OFFSET = 0.1, 0.01, 0.25
ROUNDS = 100


class TwoMoons(Simulator):
    """A point on a half ring that is folded over one direction of theta."""

    name = "two_moons"
    prior = Prior(theta_1=td.Uniform(-1.0, 1.0), theta_2=td.Uniform(-1.0, 1.0))
    observables: Mapping[str, Observable] = {"x": Observable((2,), "", ("feature",))}
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"x": half_ring(theta.new_empty(len(theta)), generator) + shift(theta)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        u, v = (x["x"].to(theta) - shift(theta)).unbind(-1)
        u = u - OFFSET
        radius = torch.sqrt(u**2 + v**2).clamp_min(1e-12)
        log_radius = -0.5 * ((radius - RADIUS) / WIDTH) ** 2 - math.log(WIDTH * math.sqrt(2 * math.pi))
        return torch.where(u > 0, log_radius - math.log(math.pi) - radius.log(), -math.inf)

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        """Draw n times from the posterior.

        Raises:
            ValueError: If x is so far from everything the model makes that no draw lies in the prior.
        """
        centre = x["x"].reshape(2).to("cpu", torch.float64)
        found: list[Tensor] = []
        for _ in range(ROUNDS):
            p = half_ring(torch.empty(n, dtype=torch.float64), generator)
            fold, along = p[:, 0] - centre[0], centre[1] - p[:, 1]
            total = torch.where(torch.rand(n, generator=generator) < 0.5, fold, -fold)
            theta = torch.stack([total - along, total + along], dim=-1) / math.sqrt(2.0)
            found.append(theta[(fold > 0) & (theta.abs() < 1).all(-1)])
            if sum(map(len, found)) >= n:
                return torch.cat(found)[:n].float()
        raise ValueError(
            f"x = {centre.tolist()} cannot come from parameters within the prior; no posterior draw was found"
        )

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 and data_2."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


def half_ring(like: Tensor, generator: torch.Generator) -> Tensor:
    """Points (r cos a + 1/4, r sin a), one for each element of `like` (batch,): (batch, 2)."""
    angle = math.pi * (torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device) - 0.5)
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    radius = RADIUS + WIDTH * noise
    return torch.stack([radius * angle.cos() + OFFSET, radius * angle.sin()], dim=-1)


def shift(theta: Tensor) -> Tensor:
    """(-|theta_1 + theta_2|, theta_2 - theta_1) / sqrt 2 for theta (batch, 2): (batch, 2)."""
    first, second = theta.unbind(-1)
    return torch.stack([-(first + second).abs(), second - first], dim=-1) / math.sqrt(2.0)


simulator = TwoMoons()
