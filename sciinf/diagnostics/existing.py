r"""Ranks for parameters that are discrete, or exist in some draws only.

Given the data, the truth and the draws of an exact posterior are exchangeable. So are the values of a parameter
among the draws in which it exists, if it exists in the truth. Let m draws have the parameter, r of them below the
truth and t equal to it. Then

    u = (r + U (t + 1)) / (m + 1),      U uniform on [0, 1],

is uniform for any m. It is stored as the count floor(u (L + 1)) with L the number of all draws, which is uniform on
0..L. Where all draws have the parameter and none is equal to the truth, this count is r. Rows whose truth lacks the
parameter are left out. Absent values must not be ranked among themselves: held at one place, their ranks are not
uniform.

Averaged over the data, the draws that have the parameter are distributed as the truths that have it. Let f have mean
0 over these draws. For each row, take the sum of f over the draws that have the parameter, divided by the number of
all draws. This less f of the truth has mean 0 (`agreement`).

The truth lies outside the span of m draws with probability 2 / (m + 1). Where m is below 1,999, only a share of such
rows counts, so that the span holds 99.9 % for any m (`tails`).

References:
    | Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018),
      https://arxiv.org/abs/1804.06788
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Batch, Draws, Posterior, Prior
from sciinf.diagnostics.agreement import LEVELS, TAIL, Agreement
from sciinf.diagnostics.tails import PAIRS, SPAN

_TIED = 1e-6  # Relative and absolute rounding error of a distance or a log density.


def ranks_among(
    draws: Float[Tensor, "draws rows theta"], truth: Float[Tensor, "rows theta"], generator: torch.Generator
) -> Int[Tensor, "rows theta"]:
    """Ranks of truths among the draws in which a parameter exists, each in 0..draws; -1 where the truth lacks it.

    Args:
        draws: Draws, NaN where a parameter does not exist.
        truth: True parameters, NaN where a parameter does not exist.
        generator: Source of randomness.
    """
    count = (~draws.isnan()).sum(0)
    u = torch.rand(truth.shape, generator=generator, dtype=torch.float64)
    u = ((draws < truth).sum(0) + u * ((draws == truth).sum(0) + 1)) / (count + 1)
    rank = (u * (len(draws) + 1)).long().clamp_max(len(draws))
    return torch.where(truth.isnan(), -1, rank)


def rank_of_last(value: Float[Tensor, "more rows"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """Number of other values below the last; values equal to the last up to rounding are ranked in random order."""
    others, last = value[:-1].double(), value[-1].double()
    near = _TIED * (1 + last.abs())
    equal = ((others - last).abs() <= near) | (others == last)
    below, tied = ((others < last) & ~equal).sum(0), equal.sum(0)
    return below + (torch.rand(last.shape, generator=generator, dtype=torch.float64) * (tied + 1)).long().clamp_max(
        tied
    )


def each_existing(draws: Draws, prior: Prior) -> list[Draws]:
    """Draws of each continuous parameter or derived quantity alone, from the draws that have it, if there are any."""
    found, discrete = [], prior.discrete()
    for d, (name, unit) in enumerate(zip(draws.names, draws.units, strict=True)):
        there = ~draws.theta[:, d].isnan()
        there &= draws.log_weight > -math.inf
        if name not in discrete and bool(there.any()):
            found.append(Draws((name,), (unit,), draws.theta[there, d : d + 1], draws.log_weight[there]))
    return found


def averages(
    prior: Prior, truth: Float[Tensor, "rows theta"], draws: Float[Tensor, "k rows theta"], generator: torch.Generator
) -> dict[str, Agreement]:
    """Test of each parameter's averaged posteriors, by name."""
    return {
        f"average of {name}": _average(truth[:, d].double(), draws[..., d].double(), generator)
        for d, name in enumerate(prior.names)
    }


def _average(truth: Tensor, draws: Tensor, generator: torch.Generator) -> Agreement:
    """Test one parameter's averaged posterior from truths (rows,) and draws (k, rows), NaN where it does not exist."""
    from scipy.stats import t

    there, known = ~truth.isnan(), ~draws.isnan()
    ordered, rows, p_values = draws[known].sort().values, int(there.sum()), []
    if not rows or not len(ordered):
        return Agreement("average", 1.0, LEVELS.copy(), 0)
    low, high = (torch.searchsorted(ordered, truth, right=right).double() for right in (False, True))
    u = (low + (high - low) * torch.rand(truth.shape, generator=generator, dtype=torch.float64)) / len(ordered)
    first, last = (torch.searchsorted(ordered, draws.contiguous(), right=right) for right in (False, True))
    middle = (low + high) / (2 * len(ordered)), (first + last).double() / (2 * len(ordered))
    for f in (lambda v: 2 * v - 1, lambda v: 6 * (v - 0.5).square() - 0.5):
        mine, each = (torch.where(has, f(v), 0.0) for has, v in zip((there, known), middle, strict=True))
        mean = each[known].mean()  # The mean is 0 except for ties, whose squares are smaller.
        apart = (each - mean * known).mean(0) - (mine - mean * there)
        ratio = float(apart.mean() / apart.std().clamp_min(1e-12)) * math.sqrt(len(truth))
        p_values.append(2 * float(t.sf(abs(ratio), len(truth) - 1)))
    found = (u[there][None] < torch.as_tensor(LEVELS)[:, None]).double().mean(1).numpy()
    return Agreement("average", min(1.0, 2 * min(p_values)), found, rows)


def outside_span(posterior: Posterior, fresh: Batch, generator: torch.Generator) -> Int[Tensor, "some theta"]:
    """Whether each truth lies outside the span of draws that holds 99.9 %.

    The value is 1 if the truth lies outside, 0 if inside, and -1 if there is no truth.

    Args:
        posterior: The posterior being calibrated.
        fresh: The fresh simulations.
        generator: Source of randomness for the draws.
    """
    truth = fresh.theta
    count = torch.zeros(truth.shape, dtype=torch.long)
    below, above, made = ~truth.isnan(), ~truth.isnan(), 0
    while made < SPAN:
        more = min(made + 127, SPAN - made)
        left = (below | above).any(1).nonzero()[:, 0]
        if not len(left):
            break
        for some in left.split(max(1, PAIRS // more)):
            batch = fresh.rows(some)
            draws = posterior.draw_batched(batch.x, more, generator=generator)
            here = (~draws.isnan()).sum(0)
            below[some] &= (draws <= batch.theta).sum(0) == 0
            above[some] &= (draws >= batch.theta).sum(0) == 0
            count[some] += here
        made += more
    # Share of the rows with all m draws on one side that count as outside.
    share = (1 - TAIL) / 2 * (count + 1).double()
    kept = torch.rand(truth.shape, generator=generator, dtype=torch.float64) < share
    one, both = (below ^ above) & kept, below & above & (torch.rand(truth.shape, generator=generator) < 1 - TAIL)
    return torch.where(truth.isnan(), -1, (one | both).long())
