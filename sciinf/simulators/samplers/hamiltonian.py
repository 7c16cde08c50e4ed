r"""Hamiltonian Monte Carlo with trajectories of random length, whose mean is learned in the warm-up (ChEES-HMC).

With F F^T the covariance of a target as the warm-up found it, positions are x = F w, and w moves with velocity v under
H(w, v) = -log p(F w) + |v|^2 / 2. A trajectory of L leapfrog steps of size s,

    v <- v + s/2 F^T grad log p(x),   x <- x + s F v,   v <- v + s/2 F^T grad log p(x),

starts from v ~ N(0, I) and ends in (w', v'), which is accepted with probability a = min(1, exp(H(w, v) - H(w', v'))).
L = ceil(u T / s), where u runs through the van der Corput sequence in (0, 1): random in all but name, so that no
period of the target is met again and again, and the same for every chain and target. In the warm-up, per target,

    step size s     by dual averaging, such that a averages 0.8 over its chains,
    covariance      from the chains' positions, in windows; all of it or its diagonal,
    length T        by stochastic gradient ascent (Adam on log T) of the change in the estimator of the trajectory's
                    expected square, ChEES = E[(|w' - m|^2 - |w - m|^2)^2] / 4, whose gradient is the chains' mean of

                    a u (|w' - m|^2 - |w - m|^2) <w' - m, v'>,   weighted by a,

m a running mean of the chains over the last twenty steps, so that a few chains, or one, are enough.

Why not NUTS: a tree that turns where each trajectory does makes all chains of all targets wait for the longest tree at
every transition. Here the number of steps differs between targets only as T / s does, which whitening makes alike.
A target that has arrived waits with a step of size zero.

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
_FIRST_LENGTH = 1.5  # about a quarter of the period of a whitened Gaussian
_SHORTEST, _LONGEST = 0.2, 30.0  # of T
_EARLY = 16  # leapfrog steps, at most, before there is a covariance to whiten with
_RATE, _FORGET = 0.05, 0.95  # Adam's learning rate for log T and its memory of squares
_CENTRE = 0.05  # share of the newest positions in the running mean


class Hamiltonian(Sampler):
    """ChEES-HMC: needs a differentiable log density; the choice from a few dimensions on.

    Args:
        warmup: Steps of adaptation, at least 20; they are not kept.
        thin: Keep every `thin`-th position.
        acceptance: Mean acceptance probability that step sizes are adapted to, in (0, 1).
        dense: Whiten with the whole covariance; False for its diagonal, cheaper from a hundred dimensions on.
        longest: Leapfrog steps of a trajectory, at most.

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
        most = steps.amax(dim=-1).tolist()  # the only wait for the device
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
                change = before - metric.log_size()  # steps are as much shorter in w as F has grown
                sizes = DualAveraging((sizes.mean + change).exp(), self.acceptance)
        return point, _Tuning(metric, sizes.settled, lengths.settled)


@dataclass(frozen=True)
class _Tuning:
    """Metric, step sizes and trajectory lengths, the latter two (batch,)."""

    metric: Metric
    step: Tensor
    length: Tensor

    def steps(self, share: Tensor, longest: int) -> Tensor:
        """Leapfrog steps of trajectories of these shares of the length, (shares, batch)."""
        steps = torch.ceil(share[:, None] * self.length / self.step)
        return steps.nan_to_num(nan=1.0).clamp(1, longest).long()


@dataclass(frozen=True)
class _Moved:
    """Where chains are now, where their trajectories ended and with which velocity, and how likely that was kept."""

    point: Point
    end: Point
    velocity: Tensor
    acceptance: Tensor


def _move(
    target: Target, point: Point, tuning: _Tuning, steps: tuple[Tensor, int], generator: torch.Generator
) -> _Moved:
    """One trajectory and its acceptance; `steps` are those of each target, (batch,), and the most of them."""
    x = point.x
    velocity = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    level = torch.rand(x.shape[:2], generator=generator, dtype=x.dtype, device=x.device)
    end, last = leapfrog(target, point, velocity, tuning, steps)
    acceptance = acceptance_probability(end.value - point.value, velocity, last)
    return _Moved(point.to(end, level < acceptance), end, last, acceptance)


def leapfrog(
    target: Target, point: Point, velocity: Tensor, tuning: _Tuning, steps: tuple[Tensor, int]
) -> tuple[Point, Tensor]:
    """The end of a trajectory and the velocity there, (chains, batch, D); targets that have arrived stand still."""
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
    """a (|w' - m|^2 - |w - m|^2) <w' - m, v'>, its mean over chains weighted by a, (batch,)."""
    begin, end = metric.whiten(point.x - centre), metric.whiten(moved.end.x - centre)
    change = end.square().sum(dim=-1) - begin.square().sum(dim=-1)
    each = change * (end * moved.velocity).sum(dim=-1)
    good = each.isfinite() & (moved.acceptance > 0)
    weight = torch.where(good, moved.acceptance, 0.0)
    mean = (weight * torch.where(good, each, 0.0)).sum(dim=0) / weight.sum(dim=0)
    return mean.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


class _Lengths:
    """Adam, without momentum, on log T of every target, and a mean of its iterates.

    Args:
        like: Of the shape, dtype and device of log T, (batch,).
    """

    def __init__(self, like: Float[Tensor, " batch"]) -> None:
        self.log = self.mean = torch.full_like(like, math.log(_FIRST_LENGTH))
        self.square = torch.zeros_like(like)
        self.count = 0

    def ascend(self, gradient: Tensor) -> None:
        """One step along the gradient with respect to T."""
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
    """The first terms of the sequence in base 2: 1/2, 1/4, 3/4, 1/8, 5/8, ..."""
    return [int(f"{k:b}"[::-1], 2) / 2 ** k.bit_length() for k in range(1, count + 1)]
