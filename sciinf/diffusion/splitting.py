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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.diffusion.events import Event
from sciinf.diffusion.particles import Particles

_GROUPS, _SHARE, _MOVES = 8, 0.25, 8
_TAKEN = 0.33  # of the steps
_RAREST = -150.0  # log P, below which a group gives up
_UNSURE = 0.7  # standard error of log P, above which it is not known

Draw = Callable[[Float[Tensor, "n number"]], Float[Tensor, "n ..."]]


def split(
    draw: Draw, event: Event, n: int, like: Float[Tensor, " number"], *, generator: torch.Generator, moves: int = _MOVES
) -> Particles:
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
    groups = [_group(draw, event, n // _GROUPS, like, generator, moves) for _ in range(_GROUPS)]
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
    return Particles(x, weight - weight.logsumexp(0), log_p, error, min(one.least for one in found))


@dataclass
class _Group:
    """What one group finds: draws of the event, log P, its variance were all draws independent, and how it went."""

    x: Tensor
    log_p: float = 0.0
    variance: float = 0.0
    least: float = 1.0
    most: float = math.nan


def _group(draw: Draw, event: Event, n: int, like: Tensor, generator: torch.Generator, moves: int) -> _Group:
    z = _noise(n, like, generator)
    found, size = _Group(draw(z)), 0.5
    value = _value(event, found.x)
    while True:
        level = _level(value, event.level)
        inside = value > level
        if not bool(inside.any()) or found.log_p < _RAREST:
            found.log_p, found.most = -math.inf, float(value.max())
            return found
        share = float(inside.double().mean())
        found.log_p, found.variance = found.log_p + math.log(share), found.variance + (1 - share) / (share * n)
        index = inside.nonzero()[:, 0]
        index = index[torch.arange(n, device=index.device) % len(index)]
        z, x, value, moved = z[index], found.x[index], value[index], torch.zeros(n, dtype=torch.bool, device=z.device)
        for _ in range(moves):
            other = math.sqrt(1 - size**2) * z + size * _noise(n, like, generator)
            there = draw(other)
            new = _value(event, there)
            taken = new > level
            z, value = torch.where(taken[:, None], other, z), torch.where(taken, new, value)
            x = torch.where(taken.reshape(-1, *[1] * (x.ndim - 1)), there, x)
            moved |= taken
            size = min(1.0, size * math.exp(float(taken.double().mean()) - _TAKEN))
        found.x, found.least = x, min(found.least, float(moved.double().mean()))
        if level == event.level:
            return found


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
