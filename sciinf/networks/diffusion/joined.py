r"""Three ways from scores of single observations to draws of the posterior of all of them.

In y = z + s e, with s_j(y) = grad log p_s(y | x_j) of n observations and N(m_j, S_j) their posteriors' moments, those
of the prior at 0:

| way | what it joins | when |
|---|---|---|
| `Gauss` | scores weighted by P_j = S_j^{-1} + I/s^2 (`composition`), solved from noise on | always, to begin with |
| `Jacobian` | the same, P_j^{-1} = s^2 dD_j/dy, the covariance of z given y and x_j | few dimensions, smooth networks |
| `Bridging` | sum_j s_j + (1 - n) w(s) grad log p(z), followed by Langevin steps | to compare with the paper |

`Gauss` is exact where factors are Gaussian. `Jacobian` asks the network for its own covariances at every y, D + 1
passes in place of one, and needs no draws of single posteriors. `Bridging` (F-NPSE) follows densities that are no
diffusion of the posterior, p(y)^{(1-n) w(s)} prod_j p_s(y | x_j) with w = 1 / (1 + s^2), the paper's (T - t) / T in
terms of s: from s_1 down a geometric grid, at each level K steps

    y' = y + c V g + sqrt(2 c) V^{1/2} z,    V^{-1} = sum_j (S_j + s^2 I)^{-1} + (1 - n) w(s) S_0^{-1},

g the joined score. V is about the covariance of the level's density, so that c < 1 is stable whatever n is; the paper's
fixed steps diverge at n = 100. `damping` multiplies g by n^{-t}, t = log(s / s_0) / log(s_1 / s_0) (Arruda et al.): at
high noise a mean of scores in place of their sum, which n in the thousands with rough networks needs. Its draws are as
wide as what few observations at a time leave uncertain of the sum: ask all of them, or use `Gauss`.

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

_FLAT = 1e-4  # smallest eigenvalue of dD/dy that is believed


@dataclass(frozen=True)
class JoinedParts:
    """What is joined.

    Attributes:
        scores: Of some observations.
        single: Moments of each posterior, (n, D).
        prior: Its moments, (D); it is Gaussian.
        least: Lowest level.
        most: Largest level.
        some: How many observations to ask at each step, drawn anew; None for all.
        like: A tensor of the dtype and on the device of the scores.
    """

    scores: Scores
    single: MultivariateNormals
    prior: MultivariateNormals
    least: float
    most: float
    some: int | None
    like: Tensor

    def chosen(self, generator: torch.Generator) -> Tensor:
        """Indices of the observations asked at a step."""
        count = len(self.single.mean)
        if self.some is None:
            return torch.arange(count, device=self.like.device)
        return torch.randint(count, (self.some,), generator=generator, device=generator.device).to(self.like.device)

    def start(self, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        """Draws of the composed Gaussian with the largest noise."""
        moments = Composition(self.single, self.prior).moments()
        dim = self.single.mean.shape[-1]
        spread = moments.covariance + self.most**2 * torch.eye(dim, dtype=torch.float64)
        factor = torch.linalg.cholesky(spread).to(self.like)
        return moments.mean.to(self.like) + noise_like(self.like.new_empty(n, dim), generator) @ factor.mT


class Method(Component, ABC):
    """A way to draw from the posterior of many observations."""

    @abstractmethod
    def draw(self, parts: JoinedParts, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        """n draws of z."""


class Gauss(Method):
    """GAUSS with centred covariances.

    Args:
        solver: How draws are taken from noise.
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
    """JAC: the covariances of GAUSS at every level from the network's own derivatives.

    Args:
        solver: How draws are taken from noise.
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
    """The composed denoiser of JAC at y (draws, D)."""
    count, dim, square = len(parts.single.mean), y.shape[-1], level.to(y) ** 2
    eye = torch.eye(dim, dtype=y.dtype, device=y.device)
    pulled, weight = torch.zeros_like(y), y.new_zeros(len(y), dim, dim)
    for part in some.split(max(1, PAIRS // (dim * max(1, len(y))))):
        at = y[:, None].expand(-1, len(part), -1)
        found, slopes = _with_slopes(lambda value, part=part: parts.scores(value, level.to(y), part), at)
        values, axes = torch.linalg.eigh(eye + square * 0.5 * (slopes + slopes.mT))  # of dD/dy
        inner = (axes / values.clamp_min(_FLAT)[..., None, :]) @ axes.mT  # s^2 P_j
        weight = weight + inner.sum(1)
        pulled = pulled + torch.einsum("njab,njb->na", inner, found)
    scale = count / len(some)
    pull, before = prior
    widest = eye + square * before
    known = torch.linalg.solve(widest, pull[:, None])[:, 0] - y @ torch.linalg.solve(widest, before).mT  # its score
    pulled = scale * pulled - (count - 1) * known @ widest.mT
    joined = raised(scale * weight - (count - 1) * widest, widest)
    return limited(y + square * torch.linalg.solve(joined, pulled[..., None])[..., 0], y, level, parts.prior)


def _with_slopes(score: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (draws, some, D) and their derivatives (..., D, D), each row's by its own point."""
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
    """F-NPSE: annealed Langevin steps along bridging densities, preconditioned.

    Args:
        levels: Noise levels, evenly spread in log s.
        steps: Langevin steps at each.
        size: c, of a step.
        damping: Whether scores are damped at high noise.

    Raises:
        ValueError: If a number is out of range.
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
    """Sum of all observations' scores, from some of them."""
    total = torch.zeros_like(y)
    for part in some.split(max(1, PAIRS // max(1, len(y)))):
        total = total + parts.scores(y[:, None].expand(-1, len(part), -1), level.to(y), part).sum(1)
    return total * (len(parts.single.mean) / len(some))
