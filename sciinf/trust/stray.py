"""Draws far out that carry a standard deviation: few of them, and none of the quantiles.

Under a heavy-tailed prior one draw in ten thousand may lie so far out that mean and sd are its own. The share of the
variance that the k draws with the largest w (theta - mean)^2 have tells: with k a thousandth of the draws it is 1 % for
a normal law, 3 % for a Laplace law, and it is said above 25 %.
"""

from __future__ import annotations

import torch

from sciinf.core import Check, Draws

_SHARE = 0.25
_ONE_IN = 1000
_AT_LEAST = 3
_FEWEST = 300


def check_stray(draws: Draws) -> tuple[Check, ...]:
    """Which parameters' sd rests on a few draws; nothing where none does, or there are too few draws to tell."""
    if len(draws) < _FEWEST:
        return ()
    few = max(_AT_LEAST, len(draws) // _ONE_IN)
    parts = draws.weights[:, None] * (draws.theta.double() - draws.mean()).square()
    share = parts.topk(few, dim=0).values.sum(0) / parts.sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    carried = [f"{share[d]:.0%} of the variance of {name}" for d, name in enumerate(draws.names) if share[d] > _SHARE]
    if not carried:
        return ()
    words = f"{few:,} of {len(draws):,} draws carry {', '.join(carried)}: read median and interval, not mean and sd"
    return (Check("stray draws", "caution", words),)
