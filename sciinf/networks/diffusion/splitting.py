r"""How probable an event is whose draws are a function of noise, by splitting, and draws of it.

A draw x = F(z) of a law is a function of standard normal numbers z. Of an event c(x) > L the probability is a product,

    P(c > L) = P(c > L_1) P(c > L_2 | c > L_1) ... P(c > L | c > L_m),

of factors that are not small: n draws of the law tell L_1, above which a quarter of them are. Those are copied until
there are n again, and each is moved by steps that leave the law of z given c > L_1 as it is,

    z' = sqrt(1 - b^2) z + b e,    e ~ N(0, I),    taken if c(F(z')) > L_1,

b such that a third are taken. They tell L_2, and so on. No slopes and no guesses are
needed, c may be any number, and the plain draws of the law are what all starts with: of an event that is not rare they
are counted, and that is all.

All is done eight times, independently, and draws count by the P of their group. P is the mean, and its standard error
is what eight differ by, or what as many independent draws at each level would leave, whichever is larger. Where groups
are far apart P is not known, and that is said. Levels are told by draws that are copies of each other's, which leaves a
bias of the order of one over the draws of a group: 5 sds of a normal number came out as 1.2 times as probable as they
are with 400 draws in all, 1.03 times with 1,600. An event of parts that no small step connects may be found in part;
eight groups tell that where some find what others do not.

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
_TAKEN = 0.33  # of the steps
_RAREST = -150.0  # log P, below which a group gives up
_UNSURE = 0.7  # standard error of log P, above which it is not known

Draw = Callable[[Float[Tensor, "n number"]], Float[Tensor, "n ..."]]


def split(
    draw: Draw, event: Event, n: int, like: Float[Tensor, " number"], *, generator: torch.Generator, moves: int = _MOVES
) -> WeightedParticles:
    """How probable an event is, and draws of it.

    Args:
        draw: F, from standard normal numbers (n, number) to draws.
        event: What is asked about; its number need not be differentiable here.
        n: How many draws at each level, in all eight groups.
        like: Any z: its size, precision and device are meant.
        generator: For noise.
        moves: Steps at each level.

    Returns:
        Draws of the event with weights; `log_evidence` is log P, `least` the smallest share of draws that moved
        at a level.

    Raises:
        ValueError: If n is no int of at least 80, moves none of at least 1, the event is not told by one number of each
            draw, or no draw comes any nearer to it.
        FloatingPointError: If that number is NaN.

    Warns:
        UserWarning: If groups differ so much that P is not known.
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
            f"log P of the event came out as {log_p:.2f} with a standard error of {error:.2f}: it is not known. Take "
            "more draws, or more moves",
            stacklevel=2,
        )
    x = torch.cat([one.x for one in found])
    weight = torch.cat([x.new_full((len(one.x),), one.log_p - math.log(len(one.x))) for one in found])
    return WeightedParticles(x, weight - weight.logsumexp(0), log_p, error, min(one.least for one in found))


@dataclass
class _Group:
    """One group's draws: their noise, what they are, the event's number of them; log P and how it was found."""

    z: Tensor
    x: Tensor
    value: Tensor
    size: float = 0.5
    log_p: float = 0.0
    variance: float = 0.0
    least: float = 1.0
    most: float = math.nan

    def rise(self, level: float) -> bool:
        """Copy the draws above a level, until there are as many again; false where there are none."""
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
        """Go where a step leads above the level; which draws did."""
        taken = new > level
        self.z, self.value = torch.where(taken[:, None], other, self.z), torch.where(taken, new, self.value)
        self.x = torch.where(taken.reshape(-1, *[1] * (self.x.ndim - 1)), there, self.x)
        self.size = min(1.0, self.size * math.exp(float(taken.double().mean()) - _TAKEN))
        return taken


def _groups(draw: Draw, event: Event, n: int, like: Tensor, generator: torch.Generator, moves: int) -> Sequence[_Group]:
    """All groups, each with levels of its own, but their draws are made together."""
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
    """Above which a quarter of the draws are; fewer where many are alike, for some are to be left above."""
    order = value.sort().values
    level = order[len(order) - 1 - max(1, int(_SHARE * len(order)))]
    if level == order[-1]:
        below = order[order < level]
        level = below[-1] if len(below) else level
    return min(float(level), last)


def _value(event: Event, x: Tensor) -> Tensor:
    """The event's number of draws.

    Raises:
        ValueError: If it is not one for each.
        FloatingPointError: If it is NaN.
    """
    found = event.of(x)
    if found.shape != (len(x),):
        raise ValueError(f"an event is told by one number of each draw, ({len(x)},), and got {tuple(found.shape)}")
    if bool(found.isnan().any()):
        bad = int(found.isnan().sum())
        raise FloatingPointError(f"the event's number is NaN for {bad} of {len(x)} draws; look at these draws")
    return found


def _noise(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn((n, len(like)), generator=generator, device=generator.device).to(like)
