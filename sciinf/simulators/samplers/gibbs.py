r"""Chains of a kernel that is known as a step alone, run until they have forgotten where they began.

Many chains take the same steps side by side. They are stopped at an even iteration i where, for every coordinate,

- positions at i and at i / 2 have a correlation over chains of at most 0.1: half of the run is enough to forget (of
  several targets all but one in twenty, to what chance makes of none), and
- half of the chains at i / 2 and the others at i look like draws of one law (Kolmogorov-Smirnov, p > 0.01).

Looking at laws alone stops chains that hardly move after their first steps, for a slow law looks like a settled one.
Chains of several targets are standardised by their target, and their laws compared together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Positions = Float[Tensor, "chains batch dim"]
LEAST, CORRELATION, LEVEL = 8, 0.1, 0.01
_MOST_COMPARED = 4_000  # of each of two samples: the test is not to see what does not matter


@dataclass(frozen=True)
class Settled:
    """How chains ended.

    Attributes:
        iterations: Steps taken.
        correlation: Of positions at the end and half-way, the largest over coordinates.
        p_value: That both are of one law, the smallest over coordinates.
        converged: Whether they were stopped by the rule.
    """

    iterations: int
    correlation: float
    p_value: float
    converged: bool


def run(
    step: Callable[[Positions], Positions],
    start: Positions,
    coordinates: Callable[[Positions], Float[Tensor, "chains batch c"]],
    *,
    most: int,
) -> tuple[Positions, Settled]:
    """Step until the rule above stops the chains, or `most` times.

    Args:
        step: The kernel.
        start: Where chains begin.
        coordinates: What is looked at; at least one number, none that jumps.
        most: Largest number of steps, at least 2.

    Returns:
        The last positions, and how the chains ended.
    """
    position, seen = start, [coordinates(start)]
    settled = Settled(0, 1.0, 0.0, converged=False)
    for iteration in range(1, most + 1):
        position = step(position)
        seen.append(coordinates(position))
        if iteration % 2 == 0 and iteration >= min(LEAST, most - most % 2):
            settled = _judge(seen[iteration // 2], seen[iteration], iteration)
            if settled.converged:
                break
    return position, settled


def _judge(before: Tensor, after: Tensor, iteration: int) -> Settled:
    from scipy.stats import kstest

    both = torch.cat([before, after]).double()
    mean, sd = both.mean(0), both.std(0).clamp_min(1e-300)
    first, second = ((value.double() - mean) / sd for value in (before, after))
    chains = len(first)
    each = (first * second).mean(0).abs().max(-1).values
    # of several targets one in twenty may be beyond what chance makes of none
    correlation = float(each.max()) if len(each) == 1 else float(each.quantile(0.95)) - 2 / math.sqrt(chains)
    p_value = 1.0
    for k in range(first.shape[-1]):
        found = kstest(_thinned(first[: chains // 2, :, k]).numpy(), _thinned(second[chains // 2 :, :, k]).numpy())
        p_value = min(p_value, float(found.pvalue))
    return Settled(iteration, correlation, p_value, correlation <= CORRELATION and p_value > LEVEL)


def _thinned(value: Float[Tensor, "chains batch"]) -> Float[Tensor, " some"]:
    """Fewer chains, of every target."""
    return value[:: -(-value.numel() // _MOST_COMPARED)].flatten().cpu()
