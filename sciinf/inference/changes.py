"""By how much two answers to one observation differ."""

from __future__ import annotations

from sciinf.core import Posterior, X
from sciinf.engine.block import generator_for

_DRAWS = 4_096
_STREAM = 2**31 + 5  # no campaign has this many blocks, so none shares these random numbers


def changes(before: Posterior, after: Posterior, x: X) -> tuple[float, float]:
    """By how much two answers differ: middles in sds, and the logarithms of the widths, each the largest.

    Of the unbounded parameters: medians, and central intervals of two sds, which no single draw moves.

    Args:
        before: One posterior.
        after: Another, whose sds count.
        x: The observation, name -> (1, *event).
    """
    found = []
    for posterior in (before, after):
        theta = posterior.draw_batched(x, _DRAWS, generator=generator_for(0, _STREAM))[:, 0]
        z = posterior.prior.bijection.forward(theta[theta.isfinite().all(1)].double())
        found.append(z.quantile(z.new_tensor([0.1587, 0.5, 0.8413]), dim=0))
    (low, middle, high), (lower, new, higher) = found
    width = (higher - lower) / 2
    return float(((new - middle) / width).abs().max()), float((2 * width / (high - low)).log().abs().max())
