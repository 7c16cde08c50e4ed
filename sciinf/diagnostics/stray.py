"""Stray draws: a few draws far out that dominate a standard deviation, and do not change the quantiles.

Under a heavy-tailed prior, one draw in ten thousand may lie so far out that it decides the mean and the sd. The
measure is the share of the variance in the k draws with the largest w (theta - mean)^2. With k a thousandth of the
effective size, this share is 1 % for a normal distribution and 3 % for a Laplace distribution. It is reported above
25 %, with the sd without these draws. Either they are stray, or the distribution has such a tail. Hill's index of
the hundredth of the draws that is farthest from the median,

    a = sum w / sum w log(|theta - median| / d),    d the least of these distances,

is the power by which the tail falls off, P(|theta - median| > r) ~ r^-a. Below 2, more draws make the sd larger, and
the answer says so. The index is about 8 for a normal distribution.

References:
    | A simple general approach to inference about the tail of a distribution (Hill, 1975),
      https://doi.org/10.1214/aos/1176343247
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Case, Cause, Diagnostic, Draws, Finding, Level, Prior
from sciinf.core.answer import digits
from sciinf.diagnostics.existing import each_existing

SHARE = 0.25
ONE_IN = 1000
AT_LEAST = 3
FEWEST = 300
_FAR = 0.01  # Share of the draws for the index.
_NO_VARIANCE = 2.0


def check_stray(draws: Draws, prior: Prior | None = None) -> tuple[Finding, ...]:
    """Report the parameters whose sd is dominated by a few draws; empty if there are none, or too few draws to tell.

    Args:
        draws: The draws.
        prior: The prior. With a mixed prior, each continuous parameter is tested alone, in the draws in which it
            exists.
    """
    if prior is not None and prior.mixed:
        each = [one for draw in each_existing(draws, prior) for one in check_stray(draw)]
        return (Finding("stray draws", Level.CAUTION, ". ".join(one.words for one in each)),) if each else ()
    if len(draws) < FEWEST:
        return ()
    few = max(AT_LEAST, round(float(draws.ess)) // ONE_IN)
    parts = draws.weights[:, None] * (draws.theta.double() - draws.mean()).square()
    share = parts.topk(few, dim=0).values.sum(0) / parts.sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    carried = [d for d in range(len(draws.names)) if share[d] > SHARE]
    if not carried:
        return ()
    each = ", ".join(f"{share[d]:.0%} of the variance of {draws.names[d]}" for d in carried)
    words = f"{few:,} of {len(draws):,} draws carry {each}: read median and interval, not mean and sd"
    more = "".join(_told(draws, d, parts[:, d].topk(few).indices) for d in carried)
    return (Finding("stray draws", Level.CAUTION, words + more),)


def tail_index(distance: Float[Tensor, " n"], weights: Float[Tensor, " n"]) -> float:
    """Hill's index of the hundredth of the draws that is farthest out.

    Args:
        distance: Distance of each draw from the middle, at least 0.
        weights: Weights of the draws, which sum to one.
    """
    far, order = distance.double().sort(descending=True)
    w = weights.double()[order]
    count = max(AT_LEAST, int((w.cumsum(0) <= _FAR).sum()))
    far, w = far[:count], w[:count]
    return float(w.sum() / (w * (far / far[-1]).log()).sum().clamp_min(1e-12))


def _told(draws: Draws, d: int, strays: Tensor) -> str:
    """Words on the sd of a parameter without some draws, and on whether its tail allows for an sd."""
    theta, weights = draws.theta[:, d].double(), draws.weights.double().clone()
    index = tail_index((theta - draws.quantile(0.5)[d]).abs(), weights)
    weights[strays] = 0.0
    weights /= weights.sum()
    sd = float((weights * (theta - weights @ theta).square()).sum().sqrt())
    words = f"; without them the sd of {draws.names[d]} is {digits(sd, sd)}, not {digits(float(draws.sd()[d]), sd)}"
    falls = f" (its draws fall off like the power {index:.1f}: with more of them it grows)"
    return words + (falls if index < _NO_VARIANCE else "")


@final
class StrayDraws(Diagnostic):
    """Do a few draws dominate an sd? Shown only if they do."""

    name, cause = "stray draws", Cause.SIMULATIONS

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        return check_stray(case.draws, case.posterior.prior)
