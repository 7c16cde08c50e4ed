r"""Hamiltonian Monte Carlo with trajectories of random length, whose mean is learned in the warm-up (ChEES-HMC).

F F^T is the covariance of a target as estimated in the warm-up. Positions are x = F w, and w moves with velocity v
under H(w, v) = -log p(F w) + |v|^2 / 2. A trajectory of L leapfrog steps of size s,

    v <- v + s/2 F^T grad log p(x),   x <- x + s F v,   v <- v + s/2 F^T grad log p(x),

starts from v ~ N(0, I) and ends in (w', v'), which is accepted with probability a = min(1, exp(H(w, v) - H(w', v'))).
L = ceil(u T / s), where u runs through the van der Corput sequence in (0, 1). The sequence is the same for every chain
and target. It varies like a random sequence, so that trajectories do not repeatedly match a period of the target. The
warm-up adapts for each target

    step size s     by dual averaging, such that a averages 0.8 over its chains,
    covariance      from the chains' positions, in windows; all of it or its diagonal,
    length T        by stochastic gradient ascent (Adam on log T) of the change in the estimator of the trajectory's
                    expected square, ChEES = E[(|w' - m|^2 - |w - m|^2)^2] / 4, whose gradient is the chains' mean of

                    u (|w' - m|^2 - |w - m|^2) <w' - m, v'>,   weighted by a,

where m is a running mean of the chains over about the last twenty steps, so that a few chains, or one, are enough.

Why not NUTS: NUTS builds a tree of steps until each trajectory turns back. All chains of all targets would wait for the
longest tree at every transition. Here the number of steps differs between targets only as T / s does, and whitening
makes T / s similar. A target whose trajectory has ended waits with a step of size zero.

References:
    | An Adaptive-MCMC Scheme for Setting Trajectory Lengths in Hamiltonian Monte Carlo (Hoffman, Radul and Sountsov,
      2021), https://proceedings.mlr.press/v130/hoffman21a.html
    | MCMC using Hamiltonian dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
    | Focusing on Difficult Directions for Learning HMC Trajectory Lengths (Sountsov and Hoffman, 2021),
      https://arxiv.org/abs/2110.11576
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_positive, check_whole
from sciinf.simulators.samplers.adaptation import DualAveraging, Metric, Windows, first_metric
from sciinf.simulators.samplers.chains import Chains, LogDensity, Sampler, kept
from sciinf.simulators.samplers.target import Point, Target, acceptance_probability, check_begin, check_call

LEAST_WARMUP = 20
_FIRST_LENGTH = 1.5  # Initial T, about a quarter of the period of a whitened Gaussian.
_SHORTEST, _LONGEST = 0.2, 30.0  # Bounds of T.
_EARLY = 16  # Largest number of leapfrog steps before there is a covariance estimate to whiten with.
_RATE, _FORGET = 0.05, 0.95  # Learning rate of Adam for log T, and decay rate of its mean of squared gradients.
_CENTRE = 0.05  # Weight of the newest positions in the running mean m.


class Hamiltonian(Sampler):
    """Hamiltonian Monte Carlo with learned trajectory lengths (ChEES-HMC), for differentiable log densities.

    This sampler is the recommended choice in more than a few dimensions.

    Args:
        warmup: Number of adaptation steps, at least 20. Their positions are discarded.
        thin: Thinning factor: every `thin`-th position is kept.
        acceptance: Target of the mean acceptance probability for the adaptation of step sizes, in (0, 1).
        dense: Whether to whiten with the full covariance. False uses only its diagonal, which is cheaper from a hundred
            dimensions on.
        longest: Largest number of leapfrog steps of a trajectory.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        warmup: int = 500,
        thin: int = 1,
        *,
        acceptance: float = 0.8,
        dense: bool = True,
        longest: int = 100,
    ) -> None:
        check_whole("warmup", warmup, LEAST_WARMUP)
        check_positive(thin=thin, longest=longest)
        if not 0 < acceptance < 1:
            raise ValueError(f"acceptance is {acceptance}, expected a probability between 0 and 1, such as 0.8")
        self.warmup, self.thin, self.acceptance, self.dense, self.longest = warmup, thin, acceptance, dense, longest

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, generator: torch.Generator) -> Chains:
        check_call(start, n, generator)
        target, x = Target(log_density), start.detach()
        value, gradient = target.slope(x)
        check_begin(value.isfinite(), "the log density")
        point, tuning = self._warm_up(target, Point(x, value, gradient), generator)
        shares = van_der_corput(n * self.thin)
        steps = tuning.steps(torch.tensor(shares, dtype=x.dtype, device=x.device), self.longest)
        most = steps.amax(dim=-1).tolist()  # The host waits for the device only here.
        accepted = x.new_zeros(x.shape[1])

        def move(i: int) -> Tensor:
            nonlocal point
            moved = _move(target, point, tuning, (steps[i], most[i]), generator)
            point = moved.point
            accepted.add_(moved.acceptance.mean(dim=0))
            return point.x

        draws = kept(move, x, n, self.thin)
        return Chains(draws, accepted / (n * self.thin), target.evaluations)

    def _warm_up(self, target: Target, point: Point, generator: torch.Generator) -> tuple[Point, _Tuning]:
        metric, windows = first_metric(point.x, dense=self.dense), Windows(self.warmup, point.x)
        sizes = DualAveraging(point.x.new_ones(point.x.shape[1]), self.acceptance)
        lengths = _Lengths(sizes.now)
        centre = point.x.mean(dim=0)
        for t, share in enumerate(van_der_corput(self.warmup)):
            tuning = _Tuning(metric, sizes.step, lengths.length)
            white = t >= windows.ends[0]
            longest = self.longest if white else min(_EARLY, self.longest)
            steps = tuning.steps(torch.full_like(sizes.now[:1], share), longest)[0]
            moved = _move(target, point, tuning, (steps, int(steps.max())), generator)
            sizes.update(moved.acceptance.mean(dim=0))
            if white:
                lengths.ascend(share * _chees_gradient(metric, point, moved, centre))
            point = moved.point
            centre = centre + (point.x.mean(dim=0) - centre) * max(1 / (t + 2), _CENTRE)
            covariance = windows.update(t, point.x)
            if covariance is not None:
                before, metric = metric.log_size(), metric.updated(covariance)
                change = before - metric.log_size()  # If F has grown, steps in w shrink by the same factor.
                sizes = DualAveraging((sizes.mean + change).exp(), self.acceptance)
        return point, _Tuning(metric, sizes.settled, lengths.settled)


@dataclass(frozen=True)
class _Tuning:
    """Tuning of each target: metric, step sizes (batch,) and trajectory lengths (batch,)."""

    metric: Metric
    step: Tensor
    length: Tensor

    def steps(self, share: Tensor, longest: int) -> Tensor:
        """Number of leapfrog steps of trajectories with the lengths share * length, (shares, batch), 1 to `longest`."""
        steps = torch.ceil(share[:, None] * self.length / self.step)
        return steps.nan_to_num(nan=1.0).clamp(1, longest).long()


@dataclass(frozen=True)
class _Moved:
    """Result of one transition of all chains.

    Attributes:
        point: Positions after acceptance or rejection.
        end: Ends of the trajectories.
        velocity: Velocities at the ends.
        acceptance: Probabilities that the ends were accepted, (chains, batch).
    """

    point: Point
    end: Point
    velocity: Tensor
    acceptance: Tensor


def _move(
    target: Target, point: Point, tuning: _Tuning, steps: tuple[Tensor, int], generator: torch.Generator
) -> _Moved:
    """Simulate one trajectory of every chain, and accept or reject its end.

    Args:
        target: Log density of the targets.
        point: Current positions.
        tuning: Metric, step sizes and trajectory lengths.
        steps: Number of leapfrog steps of each target, (batch,), and the largest of these numbers.
        generator: Source of randomness.
    """
    x = point.x
    velocity = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    level = torch.rand(x.shape[:2], generator=generator, dtype=x.dtype, device=x.device)
    end, last = leapfrog(target, point, velocity, tuning, steps)
    acceptance = acceptance_probability(end.value - point.value, velocity, last)
    return _Moved(point.to(end, level < acceptance), end, last, acceptance)


def leapfrog(
    target: Target, point: Point, velocity: Tensor, tuning: _Tuning, steps: tuple[Tensor, int]
) -> tuple[Point, Tensor]:
    """End of each chain's trajectory, and the velocity at the end, (chains, batch, D).

    `steps` are the number of leapfrog steps of each target, (batch,), and the largest of these numbers. A target stands
    still after its own number of steps.
    """
    metric, (each, most) = tuning.metric, steps
    x, value, gradient = point.x, point.value, point.gradient
    force = metric.pull(gradient)
    for k in range(most):
        step = torch.where(k < each, tuning.step, 0.0)[:, None]
        velocity = velocity + 0.5 * step * force
        x = x + step * metric.stretch(velocity)
        value, gradient = target.slope(x)
        force = metric.pull(gradient)
        velocity = velocity + 0.5 * step * force
    return Point(x, value, gradient), velocity


def _chees_gradient(metric: Metric, point: Point, moved: _Moved, centre: Tensor) -> Tensor:
    """Gradient of ChEES with respect to T, divided by the share u of the trajectory, (batch,).

    The gradient is the mean of (|w' - m|^2 - |w - m|^2) <w' - m, v'> over chains, weighted by a.
    """
    begin, end = metric.whiten(point.x - centre), metric.whiten(moved.end.x - centre)
    change = end.square().sum(dim=-1) - begin.square().sum(dim=-1)
    each = change * (end * moved.velocity).sum(dim=-1)
    good = each.isfinite() & (moved.acceptance > 0)
    weight = torch.where(good, moved.acceptance, 0.0)
    mean = (weight * torch.where(good, each, 0.0)).sum(dim=0) / weight.sum(dim=0)
    return mean.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


class _Lengths:
    """Optimiser of the trajectory length T of every target: Adam without momentum on log T, with averaged iterates.

    Args:
        like: A tensor with the shape, dtype and device of log T, (batch,).
    """

    def __init__(self, like: Float[Tensor, " batch"]) -> None:
        self.log = self.mean = torch.full_like(like, math.log(_FIRST_LENGTH))
        self.square = torch.zeros_like(like)
        self.count = 0

    def ascend(self, gradient: Tensor) -> None:
        """Take one ascent step along the gradient with respect to T."""
        self.count += 1
        slope = gradient * self.length
        self.square = _FORGET * self.square + (1 - _FORGET) * slope.square()
        size = (self.square / (1 - _FORGET**self.count)).sqrt()
        step = _RATE * torch.where(size > 0, slope / size, 0.0)
        self.log = (self.log + step).clamp(math.log(_SHORTEST), math.log(_LONGEST))
        weight = self.count**-0.5
        self.mean = weight * self.log + (1 - weight) * self.mean

    @property
    def length(self) -> Tensor:
        return self.log.exp()

    @property
    def settled(self) -> Tensor:
        return self.mean.exp()


def van_der_corput(count: int) -> list[float]:
    """First `count` terms of the van der Corput sequence in base 2: 1/2, 1/4, 3/4, 1/8, 5/8, ..."""
    return [int(f"{k:b}"[::-1], 2) / 2 ** k.bit_length() for k in range(1, count + 1)]
