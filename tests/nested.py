r"""Two models of which one has a parameter more, and their exact posterior, which may be given faults.

    flat:  x_j = level + e_j,                  line:  x_j = level + slope t_j + e_j,        e_j ~ N(0, s^2),

j = 1..n, t from -1 to 1; level and slope are N(0, 1), and the slope exists for the line only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf.core import Choice, Draws, Normal, Observable, Only, Posterior, Prior, Simulator, X


class Nested(Simulator):
    """Data of either model."""

    name = "nested"
    block = 65_536

    def __init__(self, numbers: int = 6, noise: float = 1.0) -> None:
        self.numbers, self.noise = numbers, noise
        self.prior = Prior(
            model=Choice("flat", "line"),
            level=(Normal(0.0, 1.0), "m"),
            slope=Only(Normal(0.0, 1.0), "m/s", model="line"),
        )
        self.observables: Mapping[str, Observable] = {"x": Observable((numbers,), "m", ("time",))}
        self.t = torch.linspace(-1, 1, numbers, dtype=torch.float64)

    def means(self, theta: Tensor) -> Tensor:
        return theta[..., 1:2] + theta[..., 2:3].nan_to_num(0.0) * self.t.to(theta.dtype)

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        means = self.means(theta)
        return {"x": means + self.noise * torch.randn(means.shape, generator=generator, dtype=theta.dtype)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:  # type: ignore[override]
        residual = (x["x"].double() - self.means(theta.double())) / self.noise
        return -0.5 * residual.square().sum(-1) - self.numbers * math.log(self.noise * math.sqrt(2 * math.pi))

    def evidences(self, x: Tensor) -> Tensor:
        """log p(x | model) of data (batch, n), float64, (batch, 2)."""
        found = []
        for count in (1, 2):
            a = torch.stack([torch.ones_like(self.t), self.t], dim=1)[:, :count]
            whole = self.noise**2 * torch.eye(self.numbers, dtype=torch.float64) + a @ a.T
            law = torch.distributions.MultivariateNormal(torch.zeros(self.numbers, dtype=torch.float64), whole)
            found.append(law.log_prob(x.double()))
        return torch.stack(found, dim=-1)


class Exact(Posterior):
    """The posterior of `Nested`, with faults.

    Args:
        simulator: Whose.
        odds: Added to the log odds of the line.
        shift: By how many of its sds the slope is too large.
        width: Factor of the sd of the slope.
        sure: Factor of the log odds.
    """

    def __init__(
        self, simulator: Nested, *, odds: float = 0.0, shift: float = 0.0, width: float = 1.0, sure: float = 1.0
    ) -> None:
        self.simulator, self.odds, self.shift, self.width, self.sure = simulator, odds, shift, width, sure
        self.name, self.digest = "exact", f"exact {odds} {shift} {width} {sure}"
        self.prior, self.observables, self.trained_on = simulator.prior, simulator.observables, frozenset()

    def log_probabilities(self, x: X) -> Tensor:
        """log P of each model given data, (batch, 2)."""
        evidence = self.simulator.evidences(x["x"])
        odds = self.sure * (evidence[:, 1] - evidence[:, 0]) + self.odds
        return torch.nn.functional.logsigmoid(torch.stack([-odds, odds], dim=1))

    def _normal(self, x: X, count: int) -> tuple[Tensor, Tensor]:
        s = self.simulator
        a = torch.stack([torch.ones_like(s.t), s.t], dim=1)[:, :count]
        covariance = torch.linalg.inv(a.T @ a / s.noise**2 + torch.eye(count, dtype=torch.float64))
        mean, root = x["x"].double() @ a @ covariance / s.noise**2, torch.linalg.cholesky(covariance)
        if count == 2:  # level and slope are independent, for t has mean 0
            mean[:, 1] += self.shift * root[1, 1]
            root = root * torch.tensor([[1.0], [self.width]], dtype=torch.float64)
        return mean, root

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        p = self.log_probabilities(x)[:, 1].exp()
        line = torch.rand(n, len(p), generator=generator, dtype=torch.float64) < p
        noise = torch.randn(n, len(p), 2, generator=generator, dtype=torch.float64)
        (flat, first), (both, second) = self._normal(x, 1), self._normal(x, 2)
        level = torch.where(line, (both + noise @ second.T)[..., 0], (flat + noise[..., :1] @ first.T)[..., 0])
        slope = torch.where(line, (both + noise @ second.T)[..., 1], math.nan)
        return torch.stack([line.double(), level, slope], dim=-1).float()

    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        theta, chosen = theta.double(), self.log_probabilities(x)
        (flat, first), (both, second) = self._normal(x, 1), self._normal(x, 2)
        of_flat = torch.distributions.MultivariateNormal(flat, scale_tril=first).log_prob(theta[..., 1:2])
        pair = theta[..., 1:].nan_to_num(0.0)
        of_line = torch.distributions.MultivariateNormal(both, scale_tril=second).log_prob(pair)
        return torch.where(theta[..., 0] == 1, chosen[:, 1] + of_line, chosen[:, 0] + of_flat)

    def features(self, x: X) -> Tensor:
        s = self.simulator
        return torch.stack([x["x"].mean(-1), (x["x"] * s.t.to(x["x"])).mean(-1)], dim=-1)
