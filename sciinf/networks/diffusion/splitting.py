r"""Probability and samples of a rare event by multilevel splitting, for samples that are a function of noise.

A sample x = F(z) of a distribution is a function of standard normal numbers z. The probability of an event c(x) > L is
a product,

    P(c > L) = P(c > L_1) P(c > L_2 | c > L_1) ... P(c > L | c > L_m),

of factors that are not small. L_1 is the level that a quarter of n samples exceed. These samples are copied until there
are n again. Each copy moves by steps that leave the distribution of z given c > L_1 unchanged,

    z' = sqrt(1 - b^2) z + b e,    e ~ N(0, I),    accepted if c(F(z')) > L_1,

with b such that a third of the steps are accepted. The moved samples set L_2, and so on. The method needs no gradients
and no guesses, and c may be any function. It starts from plain samples of the distribution. If the event is not rare,
the method only counts these samples.

Eight groups repeat this independently. Samples are weighted by the P of their group. The final P is the mean over
groups. Its standard error comes from the spread of the groups, or from the error of as many independent samples at each
level. The larger value is used. If the groups differ greatly, P is unknown, and a warning says so. Levels are set by
samples that are copies of each other. This causes a bias of the order of one over the number of samples in a group. For
example, the probability of 5 sds of a normal number came out 1.2 times too large with 400 samples in total. With 1,600
samples it was 1.03 times too large. If an event has parts that no small step connects, the samples may miss some parts.
The eight groups show this if some groups find parts that others miss.

References:
    | Estimation of small failure probabilities in high dimensions by subset simulation (Au & Beck, 2001),
      https://doi.org/10.1016/S0266-8920(01)00019-4
    | Unbiasedness of some generalized adaptive multilevel splitting algorithms (Brehier et al., 2016),
      https://doi.org/10.1214/16-AAP1185
    | MCMC Methods for Functions (Cotter et al., 2013), https://doi.org/10.1214/13-STS421 (the step)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.networks.diffusion.events import Event
from sciinf.networks.diffusion.particles import WeightedParticles

_GROUPS, _SHARE, _MOVES = 8, 0.25, 8
_TAKEN = 0.33  # Intended fraction of accepted steps.
_RAREST = -150.0  # Value of log P below which a group stops.
_UNSURE = 0.7  # Standard error of log P above which P counts as unknown.

Draw = Callable[[Float[Tensor, "n number"]], Float[Tensor, "n ..."]]


def split(
    draw: Draw, event: Event, n: int, like: Float[Tensor, " number"], *, generator: torch.Generator, moves: int = _MOVES
) -> WeightedParticles:
    """Probability of an event and weighted samples of the event.

    Args:
        draw: Function F, from standard normal numbers (n, number) to samples.
        event: The event; its function c need not be differentiable here.
        n: Number of samples at each level, in all eight groups together.
        like: Any z, which sets the size, dtype and device of the noise.
        generator: Source of noise.
        moves: Number of steps at each level.

    Returns:
        Weighted samples of the event. `log_evidence` is log P. `least` is the smallest fraction of samples that moved
        at a level.

    Raises:
        ValueError: If `n` is not an int of at least 80, or `moves` is not an int of at least 1. Also if the event does
            not give one number for each sample, or if no sample gets closer to the event.
        FloatingPointError: If the event's number is NaN.

    Warns:
        UserWarning: If the groups differ so much that P is unknown.
    """
    check_whole("n", n, 10 * _GROUPS)
    check_whole("moves", moves, 1)
    groups = _groups(draw, event, n // _GROUPS, like, generator, moves)
    found = [one for one in groups if one.log_p > -math.inf]
    if not found:
        raise ValueError(
            f"draws come to {max(one.most for one in groups):.4g} and no further, and the event is above "
            f"{event.level:.4g}: is it possible at all?"
        )
    logs = torch.tensor([one.log_p for one in groups], dtype=torch.float64)
    log_p = float(logs.logsumexp(0)) - math.log(_GROUPS)
    share = (logs - log_p).exp()
    expected = float((share.square() * torch.tensor([one.variance for one in groups])).sum().sqrt()) / _GROUPS
    error = max(float(share.std()) / _GROUPS**0.5, expected)
    if error > _UNSURE:
        warnings.warn(
            f"log P of the event came out as {log_p:.2f} with a standard error of {error:.2f}: P is unknown. Take "
            "more samples, or more moves",
            stacklevel=2,
        )
    x = torch.cat([one.x for one in found])
    weight = torch.cat([x.new_full((len(one.x),), one.log_p - math.log(len(one.x))) for one in found])
    return WeightedParticles(x, weight - weight.logsumexp(0), log_p, error, min(one.least for one in found))


@dataclass
class _Group:
    """One group of samples, with the estimate of log P.

    Attributes:
        z: Noise of each sample.
        x: Samples F(z).
        value: The event's number c of each sample.
        size: Step size b.
        log_p: Log probability of the levels so far.
        variance: Relative variance of the probability, for independent samples.
        least: Smallest fraction of samples that moved at a level.
        most: Largest c, if the group stopped before the event.
    """

    z: Tensor
    x: Tensor
    value: Tensor
    size: float = 0.5
    log_p: float = 0.0
    variance: float = 0.0
    least: float = 1.0
    most: float = math.nan

    def rise(self, level: float) -> bool:
        """Keep only the samples above a level, copied until the group is complete again.

        Returns false if no sample is above the level, or if log P is too low.
        """
        inside, n = self.value > level, len(self.value)
        if not bool(inside.any()) or self.log_p < _RAREST:
            self.log_p, self.most = -math.inf, float(self.value.max())
            return False
        share = float(inside.double().mean())
        self.log_p, self.variance = self.log_p + math.log(share), self.variance + (1 - share) / (share * n)
        index = inside.nonzero()[:, 0]
        index = index[torch.arange(n, device=index.device) % len(index)]
        self.z, self.x, self.value = self.z[index], self.x[index], self.value[index]
        return True

    def step(self, other: Tensor, there: Tensor, new: Tensor, level: float) -> Tensor:
        """Accept the steps that end above the level, adapt the step size, and return which samples moved."""
        taken = new > level
        self.z, self.value = torch.where(taken[:, None], other, self.z), torch.where(taken, new, self.value)
        self.x = torch.where(taken.reshape(-1, *[1] * (self.x.ndim - 1)), there, self.x)
        self.size = min(1.0, self.size * math.exp(float(taken.double().mean()) - _TAKEN))
        return taken


def _groups(draw: Draw, event: Event, n: int, like: Tensor, generator: torch.Generator, moves: int) -> Sequence[_Group]:
    """All groups, each with its own levels; the samples of all groups are computed together."""
    z = _noise(_GROUPS * n, like, generator)
    x = draw(z)
    groups = [_Group(*parts) for parts in zip(*(one.split(n) for one in (z, x, _value(event, x))), strict=True)]
    rising = groups
    while rising:
        levels = [_level(one.value, event.level) for one in rising]
        told = [(one, level) for one, level in zip(rising, levels, strict=True) if one.rise(level)]
        moved = [torch.zeros(n, dtype=torch.bool, device=z.device) for _ in told]
        for _ in range(moves if told else 0):
            size = torch.tensor([one.size for one, _ in told]).to(like).repeat_interleave(n)[:, None]
            own = torch.cat([one.z for one, _ in told])
            other = (1 - size.square()).sqrt() * own + size * _noise(len(own), like, generator)
            there = draw(other)
            steps = zip(told, *(one.split(n) for one in (other, there, _value(event, there))), strict=True)
            for k, ((one, level), *step) in enumerate(steps):
                moved[k] |= one.step(*step, level)
        for (one, _), some in zip(told, moved, strict=True):
            one.least = min(one.least, float(some.double().mean()))
        rising = [one for one, level in told if level < event.level]
    return groups


def _level(value: Tensor, last: float) -> float:
    """The next level: exceeded by a quarter of the samples, or fewer if many have equal values; at most `last`.

    At least one sample remains above the level, unless all values are equal.
    """
    order = value.sort().values
    level = order[len(order) - 1 - max(1, int(_SHARE * len(order)))]
    if level == order[-1]:
        below = order[order < level]
        level = below[-1] if len(below) else level
    return min(float(level), last)


def _value(event: Event, x: Tensor) -> Tensor:
    """The event's number c of each sample.

    Raises:
        ValueError: If there is not one number for each sample.
        FloatingPointError: If a number is NaN.
    """
    found = event.of(x)
    if found.shape != (len(x),):
        raise ValueError(f"an event needs one number for each sample, ({len(x)},), and got {tuple(found.shape)}")
    if bool(found.isnan().any()):
        bad = int(found.isnan().sum())
        raise FloatingPointError(f"the event's number is NaN for {bad} of {len(x)} draws; look at these draws")
    return found


def _noise(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn((n, len(like)), generator=generator, device=generator.device).to(like)
