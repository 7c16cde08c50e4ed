r"""Markov chains of a given transition kernel, run until they no longer depend on their starts.

Many chains take steps in parallel. They are stopped at an even iteration i if, for every coordinate,

- positions at i and at i / 2 have a correlation over chains of at most 0.1, and
- half of the chains at i / 2 and the other chains at i look like draws from one distribution (Kolmogorov-Smirnov test,
  p > 0.01).

By the first condition, half of the run is enough to lose the memory of the start. With several targets, the rule uses
the 95 % quantile of the targets' correlations, minus the correlation that chance gives to independent positions. The
second condition alone would stop chains that hardly move after their first steps: a distribution that changes slowly
looks like a stationary one. Chains of several targets are standardised for each target, and their distributions are
compared together.
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
_MOST_COMPARED = 4_000  # Largest size of a compared sample: larger samples would reveal irrelevant differences.


@dataclass(frozen=True)
class Settled:
    """Convergence diagnostics of a run of chains.

    Attributes:
        iterations: Number of steps taken.
        correlation: Correlation of positions at the end and halfway, the largest over coordinates.
        p_value: P-value of the test that positions at the end and halfway have one distribution, the smallest over
            coordinates.
        converged: Whether the stopping rule stopped the chains before the largest number of steps.
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
    """Run chains until the stopping rule of this module holds, or for `most` steps.

    Args:
        step: Transition kernel, a function from positions to the next positions.
        start: First positions of the chains.
        coordinates: Function from positions to the numbers that the rule compares: at least one number, and each
            continuous in the positions.
        most: Largest number of steps, at least 2.

    Returns:
        The last positions, and the diagnostics of the run.
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
    # With several targets, one in twenty may exceed the correlation that chance gives to independent positions.
    correlation = float(each.max()) if len(each) == 1 else float(each.quantile(0.95)) - 2 / math.sqrt(chains)
    p_value = 1.0
    for k in range(first.shape[-1]):
        found = kstest(_thinned(first[: chains // 2, :, k]).numpy(), _thinned(second[chains // 2 :, :, k]).numpy())
        p_value = min(p_value, float(found.pvalue))
    return Settled(iteration, correlation, p_value, correlation <= CORRELATION and p_value > LEVEL)


def _thinned(value: Float[Tensor, "chains batch"]) -> Float[Tensor, " some"]:
    """Values of fewer chains, of every target, in one vector on the CPU."""
    return value[:: -(-value.numel() // _MOST_COMPARED)].flatten().cpu()
