r"""Are the posterior's tails heavy enough, beyond the range of 127 draws of each fresh simulation?

Ranks among 127 draws end at 1 / 128, and a test of their distribution hardly depends on its ends: an interval of
99.9 % that holds 99 % passes. Two tests look farther out.

*One parameter.* Of N = 1,999 draws of an exact posterior, none lies below the truth in one case of N + 1, and none
above in another. So their span holds 99.9 % of the truths, and the number outside, of n fresh simulations, is
binomial. Only simulations whose truth still lies outside of the draws need more draws. Each doubling of the draws
halves the number of these simulations, so a parameter costs 8 further draws per simulation.

*All parameters.* With n fresh simulations (theta_i, x_i), the prior p and the posterior's density q,

    e = average over w of  prod_i [ 1 - w + w p(theta_i) / q(theta_i | x_i) ]

has mean 1 where q is the posterior, because E_q [p / q] = 1 for any data. e is the odds that a share w of the truths
comes from the prior instead. By Markov's inequality 1 / e is a p-value. A truth far out in a tail that is too light
has q many orders of magnitude below p, and one such truth is enough.

Both tests look for tails that are too light, and not for tails that are too heavy.

References:
    | Vector-valued coverage of prediction regions: order statistics (Wilks, 1941),
      https://doi.org/10.1214/aoms/1177731788
    | E-values: calibration, combination and applications (Vovk & Wang, 2021), https://arxiv.org/abs/1912.06116
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciinf.core import Batch, Case, Cause, Diagnostic, Finding, Level, Posterior
from sciinf.diagnostics.agreement import TAIL, Agreement

NAME = "tails"
SPAN = 1_999  # Number of draws whose span holds 99.9 %: 2 of 2,000 lie outside.
_SHARES = torch.tensor([1e-5, 1e-4, 1e-3, 1e-2], dtype=torch.float64)
FULL = 16  # With more parameters, fewer simulations are used, so that the test takes no more time than the ranks did.
PAIRS = 65_536  # Largest number of (simulation, draw) pairs in one pass.
_ASKED = 0.98  # Least level of intervals for which an answer reports tails.


def beyond(
    posterior: Posterior, fresh: Batch, ranks: Int[Tensor, "rows theta"], draws: int, generator: torch.Generator
) -> Bool[Tensor, "some theta"]:
    """Which truths lie outside the span of 1,999 draws, for the first simulations or for all.

    Args:
        posterior: The posterior being calibrated.
        fresh: The fresh simulations.
        ranks: Number of existing draws that lie below the truth.
        draws: Number of existing draws of each row, at most 1,999.
        generator: Source of randomness for the further draws.
    """
    rows = math.ceil(len(ranks) * min(1.0, FULL / ranks.shape[1]))
    below, above = ranks[:rows] == 0, ranks[:rows] == draws
    while draws < SPAN:
        more = min(draws + 1, SPAN - draws)
        left = (below | above).any(1).nonzero()[:, 0]
        if not len(left):
            break
        for some in left.split(max(1, PAIRS // more)):
            batch = fresh.rows(some)
            under = (posterior.draw_batched(batch.x, more, generator=generator) < batch.theta).sum(0)
            below[some] &= under == 0
            above[some] &= under == more
        draws += more
    return below | above


def odds(log_p: Float[Tensor, " rows"], log_q: Float[Tensor, " rows"]) -> float:
    """log e, from the truths' log densities under prior and posterior; infinite where q is 0 and p is not."""
    ratio = (log_p - log_q).double()
    ratio = torch.where(ratio.isnan(), -math.inf, ratio)  # There is no density to compare.
    each = torch.logaddexp(torch.log1p(-_SHARES)[:, None], _SHARES.log()[:, None] + ratio)
    return float(each.sum(1).logsumexp(0)) - math.log(len(_SHARES))


def tail_agreements(
    outside: Bool[Tensor, "some theta"] | Int[Tensor, "some theta"],
    names: tuple[str, ...],
    log_p: Float[Tensor, " rows"],
    log_q: Float[Tensor, " rows"],
) -> dict[str, Agreement]:
    """Tests of the tails, by name.

    Args:
        outside: Result of `beyond`; or 1, 0 and, for a truth that does not exist, -1 (`existing.outside_span`).
        names: Names of the parameters.
        log_p: Log density of the truths under the prior.
        log_q: Log density of the truths under the posterior.
    """
    from scipy.stats import binom

    found = {}
    counts, known = (outside > 0).sum(0).tolist(), (outside >= 0).sum(0).tolist()
    for name, count, rows in zip(names, counts, known, strict=True):
        p_value = float(binom.sf(count - 1, rows, 1 - TAIL))
        found[f"tail of {name}"] = Agreement("tail", p_value, np.array([1 - count / max(rows, 1)]), rows)
    worst = min((test.found for test in found.values()), key=lambda held: held[0], default=np.array([1.0]))
    least = float((log_q - log_p).nan_to_num(nan=math.inf, neginf=-math.inf).min()) / math.log(10)
    note = f"truths lie where the density is down to {_power(least)} of the prior's, and the worst"
    p_value = math.exp(-max(0.0, odds(log_p, log_q)))
    found["tail of all parameters"] = Agreement("tail", p_value, worst, len(log_p), note)
    return found


def _power(log_ten: float) -> str:
    return "nothing" if log_ten == -math.inf else f"{10**log_ten:.0e}" if log_ten > -300 else f"1e{log_ten:.0f}"


@final
class Tails(Diagnostic):
    """Can intervals of 98 % and more be trusted? Shown only if the calibration found too light tails."""

    name, cause = NAME, Cause.SIMULATIONS

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        found = case.calibration
        if found is None or not found.tails or found.fit != case.posterior.digest or case.level < _ASKED:
            return ()
        words = f"{'; '.join(found.tails)}: intervals of {case.level:.4g} and limits are too narrow by this"
        return (Finding(NAME, Level.CAUTION, words),)
