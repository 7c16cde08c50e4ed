r"""Ranks where parameters are discrete, or exist in some draws only.

Given the data, the truth and the draws of an exact posterior are exchangeable. So are, among those in which a parameter
exists, its values, if the truth is one of them: with m draws that have it, r of them below the truth and t equal to it,

    u = (r + U (t + 1)) / (m + 1),      U uniform on [0, 1],

is uniform, whatever m is. It is kept as the count floor(u (L + 1)) of as many draws as there are, which is uniform on
0..L: where all draws have the parameter and none is equal, that is r. Rows whose truth does not have it take no part.
Absent values must not be given a rank by themselves: held at one place, their ranks are not uniform.

Averaged over the data, the draws that have it are as the truths that have it are. With f of mean 0 over the former, the
row's sum of f over draws that have it, over all draws, less that of the truth, has mean 0 (`agreement`).

Of the m draws of a tail's span the truth lies outside with probability 2 / (m + 1); where m is below 1,999 a share of
such rows counts, so that 99.9 % hold for any m (`tails`).

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

_TIED = 1e-6  # of a distance or a log density, and of 1: rounding


def ranks_among(
    draws: Float[Tensor, "draws rows theta"], truth: Float[Tensor, "rows theta"], generator: torch.Generator
) -> Int[Tensor, "rows theta"]:
    """Ranks of truths among the draws in which a parameter exists, each in 0..draws; -1 where its truth does not.

    Args:
        draws: NaN where a parameter does not exist.
        truth: As the draws.
        generator: Source of randomness.
    """
    count = (~draws.isnan()).sum(0)
    u = torch.rand(truth.shape, generator=generator, dtype=torch.float64)
    u = ((draws < truth).sum(0) + u * ((draws == truth).sum(0) + 1)) / (count + 1)
    rank = (u * (len(draws) + 1)).long().clamp_max(len(draws))
    return torch.where(truth.isnan(), -1, rank)


def rank_of_last(value: Float[Tensor, "more rows"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """How many of the others are below the last, those equal to it but for rounding in random order."""
    others, last = value[:-1].double(), value[-1].double()
    near = _TIED * (1 + last.abs())
    equal = ((others - last).abs() <= near) | (others == last)
    below, tied = ((others < last) & ~equal).sum(0), equal.sum(0)
    return below + (torch.rand(last.shape, generator=generator, dtype=torch.float64) * (tied + 1)).long().clamp_max(
        tied
    )


def each_existing(draws: Draws, prior: Prior) -> list[Draws]:
    """Each continuous parameter or derived quantity by itself, in the draws that have it, if any do."""
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
    """The test of each parameter's averaged posteriors, by name."""
    return {
        f"average of {name}": _average(truth[:, d].double(), draws[..., d].double(), generator)
        for d, name in enumerate(prior.names)
    }


def _average(truth: Tensor, draws: Tensor, generator: torch.Generator) -> Agreement:
    """Of truths (rows,) and draws (k, rows) of one parameter, NaN where it does not exist."""
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
        mean = each[known].mean()  # 0 but for ties, of which the squares are less
        apart = (each - mean * known).mean(0) - (mine - mean * there)
        ratio = float(apart.mean() / apart.std().clamp_min(1e-12)) * math.sqrt(len(truth))
        p_values.append(2 * float(t.sf(abs(ratio), len(truth) - 1)))
    found = (u[there][None] < torch.as_tensor(LEVELS)[:, None]).double().mean(1).numpy()
    return Agreement("average", min(1.0, 2 * min(p_values)), found, rows)


def outside_span(posterior: Posterior, fresh: Batch, generator: torch.Generator) -> Int[Tensor, "some theta"]:
    """1 where a truth lies outside of the span of draws that holds 99.9 %, 0 where it does not, -1 where it is none.

    Args:
        posterior: What is calibrated.
        fresh: The fresh simulations.
        generator: Source of draws.
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
    share = (1 - TAIL) / 2 * (count + 1).double()  # of rows in which all m draws are on one side
    kept = torch.rand(truth.shape, generator=generator, dtype=torch.float64) < share
    one, both = (below ^ above) & kept, below & above & (torch.rand(truth.shape, generator=generator) < 1 - TAIL)
    return torch.where(truth.isnan(), -1, (one | both).long())
