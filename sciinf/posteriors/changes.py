"""By how much two answers to one observation differ."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.block import generator_for
from sciinf.core import Posterior, X

SHIFT, WIDTH = 0.15, 0.1  # of the middle in sds, of the width: what a right answer may be off by at most
SHARE = 2 / 3  # of that: what two networks may differ by
_DRAWS = 10_000
_CHANCE = 2.0  # standard errors of an sd's logarithm that are no difference
_SOMETIMES = 0.05  # share of the draws in which a parameter exists, below which it is not compared
_PER_PROBABILITY, _PER_VARIATION = 3.0, 1.5  # sds
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 5


def changes(before: Posterior, after: Posterior, x: X) -> tuple[float, float]:
    """By how much two answers differ: middles in sds, and the logarithms of the widths, each the largest.

    Medians and central intervals of two sds of the unbounded parameters, which no single draw moves, and means and sds
    of them and of the parameters, which draws far out do. Sds have a chance error of their own, large where tails are
    heavy, and differ by what is beyond two of its standard errors.

    A parameter that exists in some draws only is compared in these, unless they are fewer than a twentieth. Of a
    discrete one, a probability that differs by .05, or a total variation of .1, counts as a middle that differs by .15
    sds; what may be chance of the draws is left out.

    Args:
        before: One posterior.
        after: Another, whose sds count.
        x: The observation, name -> (1, *event).
    """
    prior, (old, new) = after.prior, (_drawn(posterior, x) for posterior in (before, after))
    if not prior.mixed:
        return _differ(*((prior.bijection.forward(theta), theta) for theta in (old, new)))
    both = [(0.0, 0.0)]
    pairs, there = [prior.split(theta).z for theta in (old, new)], [prior.present(theta) for theta in (old, new)]
    for k, name in enumerate(prior.names):
        mine = [one[:, k] for one in there]
        if name in prior.discrete():
            values = [z[in_it, k].long() for z, in_it in zip(pairs, mine, strict=True)]
            both.append((_differ_in_probability(*values), 0.0))
        elif min(float(in_it.double().mean()) for in_it in mine) > _SOMETIMES:
            each = zip(pairs, (old, new), mine, strict=True)
            both.append(_differ(*((z[in_it, k, None], theta[in_it, k, None]) for z, theta, in_it in each)))
    moved, wider = torch.tensor(both, dtype=torch.float64).amax(0).tolist()  # NaN if one of them is
    return moved, wider


def changes_from_json(written: Iterable[float | None]) -> tuple[float, float]:
    """What `changes` gave, as `write_json` wrote it: JSON has no number that is not finite."""
    moved, wider = (math.inf if value is None else float(value) for value in written)
    return moved, wider


def agree(differs: tuple[float, float]) -> bool:
    """Whether two answers differ by so little that one confirms the other; not where that is no number.

    Args:
        differs: Middles in sds, and the logarithms of widths (`changes`).
    """
    return differs[0] <= SHARE * SHIFT and math.expm1(differs[1]) <= SHARE * WIDTH


def beyond(differs: tuple[float, float]) -> bool:
    """Whether they differ by more than a right one may be off by; so too where that is no number.

    Args:
        differs: As in `agree`.
    """
    return not (differs[0] <= SHIFT and math.expm1(differs[1]) <= WIDTH)


def error_left(moved: tuple[float, float], before: int, now: int) -> tuple[float, float]:
    """An answer's chance error, by what its last round moved; of the first what it moved the other network's answer.

    Args:
        moved: As `changes` gives it.
        before: Rows that did not fail, before the last round.
        now: After it.
    """
    times = math.sqrt(before / max(now - before, 1)) if before else 1.0
    return moved[0] * times, moved[1] * times


def _drawn(posterior: Posterior, x: X) -> Float[Tensor, "n theta"]:
    """Unweighted draws, finite where parameters exist."""
    generator = generator_for(0, _STREAM)
    theta = posterior.draw(x, _DRAWS, generator=generator).resample(_DRAWS, generator=generator).double()
    return theta[(theta.isfinite() | ~posterior.prior.present(theta)).all(1)]


def _differ(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Largest differences between two answers: of the middles, and of the logarithms of the widths.

    Differences of middles are in widths of the second answer. Differences of the logarithms are reduced by
    two of their standard errors, down to 0 at least.

    Args:
        before: Draws of the first answer: unbounded parameters z, and parameters theta, (n, D) each.
        after: Draws of the second answer, likewise.
    """
    (middle, width, chance), (new, wide, other) = _told(*before), _told(*after)
    wider = (wide / width).log().abs() - _CHANCE * (chance.square() + other.square()).sqrt()
    return float(((new - middle) / wide).abs().max()), float(wider.clamp_min(0.0).max())


def _told(z: Float[Tensor, "n theta"], theta: Float[Tensor, "n theta"]) -> tuple[Tensor, Tensor, Tensor]:
    """Middles of an answer, its widths, and the standard errors of their logarithms, (3 D,) each."""
    low, median, high = z.quantile(z.new_tensor([0.1587, 0.5, 0.8413]), dim=0)
    both = torch.cat([z, theta], dim=1)
    mean, sd = both.mean(0), both.std(0)
    fourth = ((both - mean) / sd).pow(4).mean(0)
    error = ((fourth - 1) / (4 * len(both))).sqrt()  # of log sd, by the delta method
    return (
        torch.cat([median, mean]),
        torch.cat([(high - low) / 2, sd]),
        torch.cat([torch.zeros_like(median), error]),
    )


def _differ_in_probability(before: Tensor, after: Tensor) -> float:
    """By how much draws of a discrete parameter differ, in sds of a middle that counts as much."""
    size = int(torch.cat([before, after]).max()) + 1 if len(before) and len(after) else 1
    shares = [one.bincount(minlength=size).double() / _DRAWS for one in (before, after)]
    apart = (shares[1] - shares[0]).abs()
    error = sum((share * (1 - share) / _DRAWS for share in shares), torch.zeros(())).sqrt()
    single = float((apart - _CHANCE * error).clamp_min(0.0).max())
    varied = 0.5 * float((apart - math.sqrt(2 / math.pi) * error).sum())  # less its mean where nothing differs
    return max(_PER_PROBABILITY * single, _PER_VARIATION * varied)
