r"""How probable an event is whose draws are a function of noise, by splitting, and draws of it.

A draw x = F(z) of a law is a function of standard normal numbers z. Of an event c(x) > L the probability is a product,

    P(c > L) = P(c > L_1) P(c > L_2 | c > L_1) ... P(c > L | c > L_m),

of factors that are not small: n draws of the law tell L_1, above which a quarter of them are. Those are copied until
there are n again, and each is moved by steps that leave the law of z given c > L_1 as it is,

    z' = sqrt(1 - b^2) z + b e,    e ~ N(0, I),    taken if c(F(z')) > L_1,

b such that a third are taken. They tell L_2, and so on; the product of shares has no bias. No slopes and no guesses are
needed, c may be any number, and the plain draws of the law are what all starts with: of an event that is not rare they
are counted, and that is all.

All is done four times, independently: P is the mean, and its standard error is what four differ by, or what as many
independent draws at each level would leave, whichever is larger. Where the four are far apart, or an event consists of
parts that no small step connects, P is not known, and the former is said.

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

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.diffusion.events import Event
from sciinf.diffusion.particles import Particles

_GROUPS, _SHARE, _MOVES = 4, 0.25, 8
_TAKEN = 0.33  # of the steps
_LEVELS = 60  # at most: 1e-36
_UNSURE = 0.7  # standard error of log P, above which it is not known

Draw = Callable[[Float[Tensor, "n number"]], Float[Tensor, "n ..."]]


def split(
    draw: Draw, event: Event, n: int, like: Float[Tensor, " number"], *, generator: torch.Generator, moves: int = _MOVES
) -> Particles:
    """How probable an event is, and draws of it.

    Args:
        draw: F, from standard normal numbers (n, number) to draws.
        event: What is asked about; its number need not be differentiable here.
        n: How many draws at each level, in all four groups.
        like: Any z: its size, precision and device are meant.
        generator: For noise.
        moves: Steps at each level.

    Returns:
        Draws of the event with equal weights; `log_evidence` is log P, `least` the smallest share of draws that moved
        at a level.

    Raises:
        ValueError: If n is no int of at least 40, moves none of at least 1, or no draw comes any nearer to the event.

    Warns:
        UserWarning: If groups differ so much that P is not known.
    """
    check_whole("n", n, 40)
    check_whole("moves", moves, 1)
    found = [_group(draw, event, n // _GROUPS, like, generator, moves) for _ in range(_GROUPS)]
    logs = torch.tensor([one[1] for one in found], dtype=torch.float64)
    log_p = float(logs.logsumexp(0)) - math.log(_GROUPS)
    apart = float((logs - log_p).exp().std() / _GROUPS**0.5)
    error = max(apart, math.sqrt(sum(one[2] for one in found)) / _GROUPS)
    if error > _UNSURE:
        warnings.warn(
            f"log P of the event came out as {log_p:.2f} with a standard error of {error:.2f}: it is not known. Take "
            "more draws, or more moves",
            stacklevel=2,
        )
    x = torch.cat([one[0] for one in found])
    return Particles(x, torch.full((len(x),), -math.log(len(x))), log_p, error, min(one[3] for one in found))


def _group(
    draw: Draw, event: Event, n: int, like: Tensor, generator: torch.Generator, moves: int
) -> tuple[Tensor, float, float, float]:
    """Draws of the event, log P, the variance of that were all draws independent, and the smallest share that moved."""
    z = _noise(n, like, generator)
    x = draw(z)
    value = event.of(x)
    log_p, variance, least, size = 0.0, 0.0, 1.0, 0.5
    before = -math.inf
    for _ in range(_LEVELS):
        level = min(float(value.sort().values[n - 1 - max(1, int(_SHARE * n))]), event.level)
        inside = value > level
        share = float(inside.double().mean())
        if not share or (level <= before and level < event.level):
            break  # no draw has come nearer
        log_p, variance = log_p + math.log(share), variance + (1 - share) / (share * n)
        index = inside.nonzero()[:, 0]
        index = index[torch.arange(n, device=index.device) % len(index)]
        z, x, value, moved = z[index], x[index], value[index], torch.zeros(n, dtype=torch.bool, device=z.device)
        for _ in range(moves):
            other = math.sqrt(1 - size**2) * z + size * _noise(n, like, generator)
            there = draw(other)
            new = event.of(there)
            taken = new > level
            z, value = torch.where(taken[:, None], other, z), torch.where(taken, new, value)
            x = torch.where(taken.reshape(-1, *[1] * (x.ndim - 1)), there, x)
            moved |= taken
            size = min(1.0, size * math.exp(float(taken.double().mean()) - _TAKEN))
        least, before = min(least, float(moved.double().mean())), level
        if level == event.level:
            return x, log_p, variance, least
    raise ValueError(
        f"draws come to {float(value.max()):.4g} and no further, and the event begins at {event.level:.4g}, after "
        f"log P = {log_p:.1f}: is it possible at all?"
    )


def _noise(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn((n, len(like)), generator=generator, device=generator.device).to(like)
