r"""The Metropolis-adjusted Langevin algorithm, for log densities, and for targets of which only the score is known.

F F^T is a target's covariance, positions are x = F w, and gamma(x) = F^T grad log p(x). A step of length delta proposes

    w' = w + delta/2 gamma(x) + sqrt(delta) z,   z ~ N(0, I),

and accepts x' = F w' with probability min(1, e^r),

    r = log p(x') - log p(x) - |z'|^2 / 2 + |z|^2 / 2,   z' = -z - sqrt(delta)/2 (gamma(x) + gamma(x')),

where z' is the noise that would lead back from x' to x. If only the score s = grad log p is known, with d = x' - x,

    log p(x') - log p(x) = int_0^1 s(x + t d) . d dt,

is integrated by Simpson's rule on m panels, or by the trapezoid rule, which only needs the scores at the two ends.
With f(t) = log p(x + t d), the error of r is at most

    trapezoid  max |f'''| / 12,         of order |d|^3 = O(delta^(3/2)), nothing for a Gaussian,
    Simpson    max |f^(5)| / (2880 m^4), of order |d|^5 = O(delta^(5/2)), nothing for log densities of degree 4,

and the distribution of the draws has a corresponding error. Both rules are symmetric in x and x'. A learned score that
is not a gradient is therefore treated alike in both directions, but then there is no exact density to compare with.

The warm-up adapts for each target delta by dual averaging to an acceptance of 0.574, the optimum in many dimensions.
It also adapts F to the covariance of the chains' positions, in windows, unless the covariance is given. In a direction
of curvature lambda (of w), the drift alone multiplies w by 1 - delta lambda / 2. Therefore delta is bounded by

    delta <= c / lambda_max,   lambda_max the largest eigenvalue of F^T C^{-1} F,

where C is the full covariance of the last window, even if F has the scales alone. With c = 2 the drift does not
overshoot the mode; c = 4 would be the limit of stability.

References:
    | Exponential convergence of Langevin distributions and their discrete approximations (Roberts and Tweedie, 1996),
      https://doi.org/10.2307/3318418
    | Optimal scaling of discrete approximations to Langevin diffusions (Roberts and Rosenthal, 1998),
      https://doi.org/10.1111/1467-9868.00123
    | Score-based generative modeling through stochastic differential equations (Song et al., 2021), for scores without
      densities, https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.simulators.samplers.adaptation import DualAveraging, Metric, Windows, first_metric
from sciinf.simulators.samplers.chains import Chains, LogDensity, Sampler, kept
from sciinf.simulators.samplers.target import Point, Target, acceptance_probability, check_begin, check_call

Score = Callable[[Tensor], Tensor]
"""Gradient of a log density, (chains, batch, D) -> (chains, batch, D), for however many chains."""

LEAST_WARMUP = 20


class Langevin(Sampler):
    """Metropolis-adjusted Langevin algorithm (MALA), also for targets of which only the score is known.

    Each step costs one gradient.

    Args:
        warmup: Number of adaptation steps, at least 20. Their positions are discarded.
        thin: Thinning factor: every `thin`-th position is kept.
        acceptance: Target of the mean acceptance probability for the adaptation of step sizes, in (0, 1).
        dense: Whether to precondition with the full covariance. False uses only its diagonal.
        cap: Upper bound c of step size times curvature, in (0, 4).
        panels: Number m of Simpson's panels between a position and its proposal, if only the score is known. The first
            panel costs one additional score, and each further panel costs two. 0 selects the trapezoid rule.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        warmup: int = 500,
        thin: int = 1,
        *,
        acceptance: float = 0.574,
        dense: bool = True,
        cap: float = 2.0,
        panels: int = 1,
    ) -> None:
        check_whole("warmup", warmup, LEAST_WARMUP)
        check_whole("thin", thin, 1)
        check_whole("panels", panels, 0)
        if not 0 < acceptance < 1:
            raise ValueError(f"acceptance is {acceptance}, expected a probability between 0 and 1, such as 0.574")
        if not 0 < cap < 4:
            raise ValueError(f"cap is {cap}, expected a number between 0 and 4, where steps become unstable, such as 2")
        self.warmup, self.thin, self.acceptance = warmup, thin, acceptance
        self.dense, self.cap, self.panels = dense, cap, panels

    def draw(
        self,
        log_density: LogDensity,
        start: Tensor,
        n: int,
        *,
        generator: torch.Generator,
        covariance: Tensor | None = None,
    ) -> Chains:
        """Warm up from `start`, then keep `n` draws of every chain, as in `Sampler.draw`.

        Args:
            log_density: Log density of the targets, differentiable.
            start: First positions, (chains, batch, D).
            n: Number of draws kept per chain.
            generator: Source of all randomness.
            covariance: Covariance of each target, (batch, D, D), for preconditioning from the first step. By default
                the covariance is adapted in the warm-up.

        Raises:
            TypeError: If `start` is not floating point.
            ValueError: As in `Sampler.draw`, and if a covariance is not positive definite.
        """
        check_call(start, n, generator)
        return self._run(_Density(log_density), start.detach(), n, generator, covariance)

    def draw_from_score(
        self,
        score: Score,
        start: Tensor,
        n: int,
        *,
        generator: torch.Generator,
        covariance: Tensor | None = None,
    ) -> Chains:
        """Draw from targets of which only the score is known.

        The distribution of the draws has an error from the numerical integral of the score (see this module's top).

        Args:
            score: Gradient of the log density. A proposal whose score is not finite is rejected.
            start: First positions, (chains, batch, D).
            n: Number of draws kept per chain.
            generator: Source of all randomness.
            covariance: Covariance of each target, (batch, D, D), for preconditioning from the first step. By default
                the covariance is adapted in the warm-up.

        Raises:
            TypeError: If `start` is not floating point.
            ValueError: As in `draw`, with the score in place of the log density.
        """
        check_call(start, n, generator)
        return self._run(_Score(score, self.panels), start.detach(), n, generator, covariance)

    def _run(
        self, terrain: _Terrain, x: Tensor, n: int, generator: torch.Generator, covariance: Tensor | None
    ) -> Chains:
        point, metric, delta = self._warm_up(terrain, terrain.begin(x), generator, covariance)
        accepted = x.new_zeros(x.shape[1])

        def move(i: int) -> Tensor:
            nonlocal point
            point, acceptance = _move(terrain, point, metric, delta, generator)
            accepted.add_(acceptance.mean(dim=0))
            return point.x

        draws = kept(move, x, n, self.thin)
        return Chains(draws, accepted / (n * self.thin), terrain.evaluations)

    def _warm_up(
        self, terrain: _Terrain, point: Point, generator: torch.Generator, covariance: Tensor | None
    ) -> tuple[Point, Metric, Tensor]:
        x, adapt, limit = point.x, covariance is None, math.log(self.cap)
        metric, windows = first_metric(x, dense=self.dense), Windows(self.warmup, x)
        top = torch.full_like(x[0, :, 0], math.inf)  # Upper bound of log delta.
        if covariance is not None:
            given = _positive_definite(covariance, x)
            metric = metric.updated(given)
            top = limit - _largest_curvature(metric, given).log()
        sizes = DualAveraging(torch.ones_like(top), self.acceptance)
        for t in range(self.warmup):
            delta = torch.minimum(sizes.now, top).exp()
            point, acceptance = _move(terrain, point, metric, delta, generator)
            sizes.update(acceptance.mean(dim=0))
            found = windows.update(t, point.x)
            if found is not None:
                metric = metric.updated(found) if adapt else metric
                top = limit - _largest_curvature(metric, found).log()
                sizes = DualAveraging(torch.minimum(sizes.mean, top).exp(), self.acceptance)
        return point, metric, torch.minimum(sizes.mean, top).exp()


class _Terrain(ABC):
    """Access to the targets, through their log density or through their score."""

    @abstractmethod
    def begin(self, x: Tensor) -> Point:
        """Points of the chains' starts, after a check that the targets are finite there."""

    @abstractmethod
    def step(self, point: Point, x: Tensor) -> tuple[Point, Tensor]:
        """Evaluate the targets at proposals.

        Args:
            point: Present points of the chains.
            x: Proposed positions, (chains, batch, D).

        Returns:
            Points at x, and the increase of the log density from `point` to x, (chains, batch). A proposal
            with an increase of -inf or NaN is rejected.
        """

    @property
    @abstractmethod
    def evaluations(self) -> int: ...


class _Density(_Terrain):
    def __init__(self, log_density: LogDensity) -> None:
        self.target = Target(log_density)

    @property
    def evaluations(self) -> int:
        return self.target.evaluations

    def begin(self, x: Tensor) -> Point:
        value, score = self.target.slope(x)
        check_begin(value.isfinite(), "the log density")
        return Point(x, value, score)

    def step(self, point: Point, x: Tensor) -> tuple[Point, Tensor]:
        value, score = self.target.slope(x)
        return Point(x, value, score), value - point.value


class _Score(_Terrain):
    def __init__(self, score: Score, panels: int) -> None:
        self.score, self.panels, self.count = score, panels, 0

    @property
    def evaluations(self) -> int:
        return self.count

    def begin(self, x: Tensor) -> Point:
        score = self._ask(x)
        check_begin(score.isfinite().all(dim=-1), "the score")
        return Point(x, torch.zeros_like(x[..., 0]), score)

    def step(self, point: Point, x: Tensor) -> tuple[Point, Tensor]:
        """Integrate the score by the trapezoid or Simpson's rule, with one call for all points inside the segment."""
        end, d = self._ask(x), x - point.x
        if self.panels == 0:
            mean = (point.gradient + end) / 2
        else:
            inner = 2 * self.panels - 1
            at = [point.x + (k + 1) / (inner + 1) * d for k in range(inner)]
            weights = [4.0 if k % 2 == 0 else 2.0 for k in range(inner)]
            middle = self._ask(torch.cat(at)).chunk(inner)
            total = point.gradient + end + sum(w * s for w, s in zip(weights, middle, strict=True))
            mean = total / (6 * self.panels)
        return Point(x, point.value, end), (mean * d).sum(dim=-1)

    def _ask(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            score = self.score(x)
        if score.shape != x.shape:
            raise ValueError(
                f"the score at positions of shape {tuple(x.shape)} has shape {tuple(score.shape)}, expected the same "
                "shape: one gradient for each chain and target"
            )
        self.count += x.shape[0] * x.shape[1]
        return score.to(x.dtype)


def _move(
    terrain: _Terrain, point: Point, metric: Metric, delta: Tensor, generator: torch.Generator
) -> tuple[Point, Tensor]:
    """Next points of the chains, and the acceptance probabilities of their proposals, (chains, batch)."""
    x = point.x
    z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    level = torch.rand(x.shape[:2], generator=generator, dtype=x.dtype, device=x.device)
    root, gamma = delta.sqrt()[:, None], metric.pull(point.gradient)
    end, rise = terrain.step(point, x + metric.stretch(0.5 * root.square() * gamma + root * z))
    back = -z - 0.5 * root * (gamma + metric.pull(end.gradient))
    acceptance = acceptance_probability(rise, z, back)
    return point.to(end, level < acceptance), acceptance


def _largest_curvature(metric: Metric, covariance: Tensor) -> Tensor:
    """Largest eigenvalue of F^T C^{-1} F, (batch,); 1 for a target whose covariance C is singular."""
    factor = metric.factor if metric.dense else torch.diag_embed(metric.factor)
    root, fault = torch.linalg.cholesky_ex(covariance)
    good = (fault == 0) & root.isfinite().all(dim=-1).all(dim=-1)
    root = torch.where(good[:, None, None], root, factor)
    relative = torch.linalg.solve_triangular(root, factor, upper=False)
    return torch.linalg.matrix_norm(relative, ord=2).square()


def _positive_definite(covariance: Tensor, x: Tensor) -> Tensor:
    """Covariances given by the user, in the dtype of the positions, after a check."""
    _, batch, dim = x.shape
    if covariance.shape != (batch, dim, dim):
        raise ValueError(
            f"covariance has shape {tuple(covariance.shape)}, expected {(batch, dim, dim)}, one matrix for each target"
        )
    covariance = covariance.to(x)
    fault = torch.linalg.cholesky_ex(covariance).info.nonzero().flatten().tolist()
    if fault:
        raise ValueError(
            f"the covariance of target {', '.join(map(str, fault[:5]))} is not positive definite: add a share of its "
            "diagonal, or leave the covariance to the warm-up"
        )
    return covariance
