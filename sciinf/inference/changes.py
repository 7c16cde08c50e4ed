"""By how much two answers to one observation differ."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from sciinf.core import Posterior, X
from sciinf.engine.block import generator_for

_DRAWS = 10_000
_CHANCE = 2.0  # standard errors of an sd's logarithm that are no difference
_STREAM = 2**31 + 5  # no campaign has this many blocks, so none shares these random numbers


def changes(before: Posterior, after: Posterior, x: X) -> tuple[float, float]:
    """By how much two answers differ: middles in sds, and the logarithms of the widths, each the largest.

    Medians and central intervals of two sds of the unbounded parameters, which no single draw moves, and means and sds
    of them and of the parameters, which draws far out do. Sds have a chance error of their own, large where tails are
    heavy, and differ by what is beyond two of its standard errors.

    Args:
        before: One posterior.
        after: Another, whose sds count.
        x: The observation, name -> (1, *event).
    """
    (middle, width, chance), (new, wide, other) = (_told(posterior, x) for posterior in (before, after))
    wider = (wide / width).log().abs() - _CHANCE * (chance.square() + other.square()).sqrt()
    return float(((new - middle) / wide).abs().max()), float(wider.clamp_min(0.0).max())


def changes_from_json(written: Iterable[float | None]) -> tuple[float, float]:
    """What `changes` gave, as `write_json` wrote it: JSON has no number that is not finite."""
    moved, wider = (math.inf if value is None else float(value) for value in written)
    return moved, wider


def _told(posterior: Posterior, x: X) -> tuple[Tensor, Tensor, Tensor]:
    """Middles of an answer, its widths, and the standard errors of their logarithms, (3 D,) each."""
    generator = generator_for(0, _STREAM)
    theta = posterior.draw(x, _DRAWS, generator=generator).resample(_DRAWS, generator=generator).double()
    theta = theta[theta.isfinite().all(1)]
    z = posterior.prior.bijection.forward(theta)
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
