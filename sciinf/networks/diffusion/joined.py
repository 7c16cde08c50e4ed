r"""Three methods to sample the joint posterior of many observations, from the scores for single observations.

In y = z + s e, let s_j(y) = grad log p_s(y | x_j) be the scores for n observations. Let N(m_j, S_j) have the moments of
their posteriors, with index 0 for the prior:

| method | joint score | use |
|---|---|---|
| `Gauss` | scores weighted by P_j = S_j^{-1} + I/s^2 (`composition`), solved from noise to data | first choice |
| `Jacobian` | the same with P_j^{-1} = s^2 dD_j/dy, the covariance of z given y and x_j | few dimensions, smooth
networks |
| `Bridging` | sum_j s_j + (1 - n) w(s) grad log p(z), followed by Langevin steps | comparison with the paper |

`Gauss` is exact if the factors are Gaussian. `Jacobian` computes covariances from the network's derivatives at every y.
This takes D + 1 passes instead of one, and needs no samples of single posteriors. `Bridging` (F-NPSE) follows the
densities p(y)^{(1-n) w(s)} prod_j p_s(y | x_j), which are no diffusion of the posterior. w = 1 / (1 + s^2) is the
paper's (T - t) / T in terms of s. The levels go from s_1 down a geometric grid, with K steps at each level,

    y' = y + c V g + sqrt(2 c) V^{1/2} z,    V^{-1} = sum_j (S_j + s^2 I)^{-1} + (1 - n) w(s) S_0^{-1},

where g is the joint score. V is about the covariance of the level's density, so c < 1 is stable for any n. The paper's
fixed steps diverge at n = 100. `damping` multiplies g by n^{-t}, t = log(s / s_0) / log(s_1 / s_0) (Arruda et al.). At
high noise, g is then a mean of scores instead of their sum. This is needed for n in the thousands with inaccurate
networks. If a step uses few of the observations, the error of their sum makes the samples of `Bridging` too wide. Then
use all observations, or `Gauss`.

References:
    | Compositional Score Modeling for Simulation-Based Inference (Geffner et al., 2023), F-NPSE,
      https://arxiv.org/abs/2209.14249
    | Diffusion posterior sampling for simulation-based inference in tall data settings (Linhart et al., 2024), GAUSS
      and JAC, https://arxiv.org/abs/2404.07593
    | Compositional amortized inference for large-scale hierarchical Bayesian models (Arruda et al., 2025), damping,
      https://arxiv.org/abs/2505.14429
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.networks.diffusion.composition import (
    PAIRS,
    Composition,
    MultivariateNormals,
    Scores,
    limited,
    raised,
    remainder_of,
)
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential, Solver, noise_like

_FLAT = 1e-4  # Smallest eigenvalue of dD/dy. Smaller eigenvalues are raised to this value.


@dataclass(frozen=True)
class JoinedParts:
    """Scores, moments and noise levels from which a `Method` samples the joint posterior.

    Attributes:
        scores: Scores for a subset of observations.
        single: Moments of the posterior of each single observation, (n, D).
        prior: Moments of the prior, (D); the prior is Gaussian.
        least: Lowest noise level.
        most: Highest noise level.
        some: Number of observations in each step, drawn anew each time; None uses all.
        like: A tensor with the dtype and device of the scores.
    """

    scores: Scores
    single: MultivariateNormals
    prior: MultivariateNormals
    least: float
    most: float
    some: int | None
    like: Tensor

    def chosen(self, generator: torch.Generator) -> Tensor:
        """Indices of the observations that one step uses."""
        count = len(self.single.mean)
        if self.some is None:
            return torch.arange(count, device=self.like.device)
        return torch.randint(count, (self.some,), generator=generator, device=generator.device).to(self.like.device)

    def start(self, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        """n samples of the composed Gaussian with noise of the highest level."""
        moments = Composition(self.single, self.prior).moments()
        dim = self.single.mean.shape[-1]
        spread = moments.covariance + self.most**2 * torch.eye(dim, dtype=torch.float64)
        factor = torch.linalg.cholesky(spread).to(self.like)
        return moments.mean.to(self.like) + noise_like(self.like.new_empty(n, dim), generator) @ factor.mT


class Method(Component, ABC):
    """A method to sample the joint posterior of many observations."""

    @abstractmethod
    def draw(self, parts: JoinedParts, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        """n samples z of the joint posterior."""


class Gauss(Method):
    """GAUSS (Linhart et al.), with centred covariances.

    Args:
        solver: Solver from noise to data. None uses `Exponential(30)`.
    """

    def __init__(self, solver: Solver | None = None) -> None:
        self.solver = solver or Exponential(30)

    def draw(self, parts: JoinedParts, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        composition = Composition(parts.single, parts.prior, remainder_of(parts.scores, parts.single))

        def denoise(y: Tensor, level: Tensor) -> Tensor:
            return composition.denoise(y, level, some=parts.chosen(generator))

        path = NoiseLevel(parts.least, parts.most)
        return self.solver.solve(denoise, parts.start(n, generator), path, generator=generator)


class Jacobian(Method):
    """JAC (Linhart et al.): GAUSS with covariances from the network's own derivatives, at every noise level.

    Args:
        solver: Solver from noise to data. None uses `Exponential(30)`.
    """

    def __init__(self, solver: Solver | None = None) -> None:
        self.solver = solver or Exponential(30)

    def draw(self, parts: JoinedParts, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        pull, before = parts.prior.natural()

        def denoise(y: Tensor, level: Tensor) -> Tensor:
            return _by_jacobians(parts, (pull.to(y), before.to(y)), y, level, parts.chosen(generator))

        path = NoiseLevel(parts.least, parts.most)
        return self.solver.solve(denoise, parts.start(n, generator), path, generator=generator)


def _by_jacobians(parts: JoinedParts, prior: tuple[Tensor, Tensor], y: Tensor, level: Tensor, some: Tensor) -> Tensor:
    """The composed denoiser of JAC at points y (draws, D).

    Args:
        parts: Scores, moments and noise levels.
        prior: Natural parameters of the prior.
        y: Points, (draws, D).
        level: Noise level s, of shape ().
        some: Indices of the observations that are used.
    """
    count, dim, square = len(parts.single.mean), y.shape[-1], level.to(y) ** 2
    eye = torch.eye(dim, dtype=y.dtype, device=y.device)
    pulled, weight = torch.zeros_like(y), y.new_zeros(len(y), dim, dim)
    for part in some.split(max(1, PAIRS // (dim * max(1, len(y))))):
        at = y[:, None].expand(-1, len(part), -1)
        found, slopes = _with_slopes(lambda value, part=part: parts.scores(value, level.to(y), part), at)
        values, axes = torch.linalg.eigh(eye + square * 0.5 * (slopes + slopes.mT))  # Eigenvalues of dD/dy.
        inner = (axes / values.clamp_min(_FLAT)[..., None, :]) @ axes.mT  # This is s^2 P_j.
        weight = weight + inner.sum(1)
        pulled = pulled + torch.einsum("njab,njb->na", inner, found)
    scale = count / len(some)
    pull, before = prior
    widest = eye + square * before
    # Score of the prior with noise.
    known = torch.linalg.solve(widest, pull[:, None])[:, 0] - y @ torch.linalg.solve(widest, before).mT
    pulled = scale * pulled - (count - 1) * known @ widest.mT
    joined = raised(scale * weight - (count - 1) * widest, widest)
    return limited(y + square * torch.linalg.solve(joined, pulled[..., None])[..., 0], y, level, parts.prior)


def _with_slopes(score: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (draws, some, D) and their derivatives (..., D, D), each at its own point."""
    dim = at.shape[-1]
    columns = []
    with torch.enable_grad():
        point = at.detach().clone().requires_grad_(True)
        found = score(point)
        for row in range(dim):
            (slope,) = torch.autograd.grad(found[..., row].sum(), point, retain_graph=row < dim - 1)
            columns.append(slope)
    return found.detach(), torch.stack(columns, dim=-2)


class Bridging(Method):
    """F-NPSE (Geffner et al.): annealed, preconditioned Langevin steps along bridging densities.

    Args:
        levels: Number of noise levels, evenly spaced in log s.
        steps: Number of Langevin steps at each level.
        size: Step size c, between 0 and 1.
        damping: Whether scores are damped at high noise.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, levels: int = 100, steps: int = 5, *, size: float = 0.3, damping: bool = False) -> None:
        check_whole("levels", levels, 2)
        check_whole("steps", steps, 1)
        if not 0 < size < 1:
            raise ValueError(f"Bridging(size={size}): steps of 0 to 1 are stable")
        self.levels, self.steps, self.size, self.damping = levels, steps, float(size), damping

    def draw(self, parts: JoinedParts, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        count, dim = parts.single.mean.shape
        pull, before = parts.prior.natural()
        eye = torch.eye(dim, dtype=torch.float64)
        y = parts.like.new_empty(0)
        for index in range(self.levels):
            fraction = 1 - index / (self.levels - 1)
            level = parts.least * (parts.most / parts.least) ** fraction
            damped = count**-fraction if self.damping else 1.0
            share = (count - 1) / (1 + level**2)
            curvature = torch.linalg.inv(parts.single.covariance + level**2 * eye).sum(0) - share * before
            spread = torch.linalg.inv(damped * raised(curvature, before / (1 + level**2 * before.diagonal().mean())))
            factor = torch.linalg.cholesky(0.5 * (spread + spread.mT)).to(y if index else parts.like)
            if index == 0:
                middle = Composition(parts.single, parts.prior).moments().mean.to(parts.like)
                y = middle + noise_like(parts.like.new_empty(n, dim), generator) @ factor.mT
            for _ in range(self.steps):
                score = _summed(parts, y, torch.tensor(level), parts.chosen(generator))
                score = damped * (score - share * (pull.to(y) - y @ before.to(y)))
                drift = score @ factor @ factor.mT
                y = y + self.size * drift + math.sqrt(2 * self.size) * noise_like(y, generator) @ factor.mT
        return y


def _summed(parts: JoinedParts, y: Tensor, level: Tensor, some: Tensor) -> Tensor:
    """Estimate of the sum of all observations' scores, from the observations with indices `some`."""
    total = torch.zeros_like(y)
    for part in some.split(max(1, PAIRS // max(1, len(y)))):
        total = total + parts.scores(y[:, None].expand(-1, len(part), -1), level.to(y), part).sum(1)
    return total * (len(parts.single.mean) / len(some))
