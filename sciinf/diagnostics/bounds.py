r"""Check whether the posterior lies at the edge of the prior, as if the true value lay beyond.

For each parameter, does its median lie outside the central 99.9 % of its prior, estimated by prior draws? For a
truth drawn from the prior and data that determine it, this happens in one of a thousand answers.

Each bound at which the prior ends abruptly is tested as well (`laws.edges_of`). Let v be the prior's probability
between a draw and the bound, and t_q the q-quantile of v over the posterior:

- leaning: at least a fifth of the posterior lies within the prior's last per cent, twenty times the prior's own mass
  there;
- rising: t_.9 / t_.5 is at least 2.7, its value for a normal density whose peak lies .67 sds beyond the bound. A
  normal density that peaks at the bound has 2.44, one that peaks inside has less, and an exponential density has
  3.32. (With the peak 2.8 sds beyond, where the ratio is 3.1, a network of 1,500 simulations had 2.74.)

The posterior of a truth near the bound leans on it and does not rise. A parameter that the data do not determine
does neither. For a truth drawn from the prior, the posterior has on average one per cent of its mass in the last per
cent. So by Markov's inequality, leaning alone happens in at most 5 % of the answers at each bound, for any model.
Leaning and rising together happen for normal likelihoods in a share of at most 0.13 sd / width of the prior, and
leaning needs sds that are a small part of that width. The 5 % are nearly reached only by likelihoods that fall off
exponentially from the bound, as upper limits do.

A parameter that exists only sometimes is tested with those draws of the prior and of the posterior in which it
exists. This needs a twentieth of the posterior's draws. Discrete parameters have no bound to lean on. Parameters in
increasing order are bounded by one another, so only their medians are tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from sciinf.core import Case, Cause, Diagnostic, Draws, Finding, Level, Prior
from sciinf.core.laws import edges_of
from sciinf.core.levels import Levels

LAST = 0.01  # Part of the prior that counts as its edge.
LEANS = 0.2  # Least posterior mass in this part for the posterior to lean.
_RISES = 2.7
_FAR = 5e-4  # Mass of the prior beyond the central part, on each side.
_SOME = 0.05  # Least posterior mass in which a parameter exists, for the parameter to be tested.
_PRIOR_DRAWS = 20_000
NAME = "prior bounds"


@final
class Bounds:
    """Check of answers against the bounds of one prior, from prior draws that are made once.

    Args:
        prior: The prior.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        theta = prior.sample(_PRIOR_DRAWS, generator=torch.Generator().manual_seed(0)).double()
        self.drawn = theta.T.contiguous()

    def check(self, draws: Draws) -> tuple[Finding, ...]:
        """Return the finding about all parameters and the bounds of their priors.

        Args:
            draws: Weighted draws of the prior's parameters, which may be followed by derived quantities.
        """
        leans = _leaning(self.prior, draws)
        return _said(leans, _far(self.prior, self.drawn, draws, [of for of in leans if of in self.prior.names]))


def _said(leans: Mapping[str, str], far: Sequence[str]) -> tuple[Finding, ...]:
    """One finding on the bounds that the posterior leans on and on the medians that lie far out in the prior."""
    if not leans and not far:
        words = f"each median lies within the central {1 - 2 * _FAR:.1%} of its prior, and none leans on a bound of it"
        return (Finding(NAME, Level.GOOD, words),)
    ways = []
    if leans:
        ways.append(
            f"{'; '.join(leans.values())}: the value may lie beyond. Widen the prior there and simulate again; where "
            "nothing can lie beyond, read the answer as a limit"
        )
    if far:
        ways.append(
            f"{'; '.join(far)}, where hardly anything was simulated: check the data and their units; if they are "
            "right, widen the prior and simulate again"
        )
    return (
        Finding(NAME, Level.CAUTION, ". ".join(way[:1].upper() + way[1:] if k else way for k, way in enumerate(ways))),
    )


def _leaning(prior: Prior, draws: Draws) -> dict[str, str]:
    """Bounds that the posterior leans on and rises up to: name -> sentence.

    A name is a parameter, or the sum of several.
    """
    found: dict[str, str] = {}
    ordered = {column for group in prior.existence.each.values() if group.increasing for column in group.columns}
    for law, place in prior.places():
        if prior.names[place.start] in ordered or isinstance(law, Levels):
            continue
        theta, weights = _existing(draws, place.start)
        for edge in edges_of(law, theta[:, place].double()) if len(theta) else ():
            mass, ratio = leaning(edge.between, weights)
            if mass >= LEANS and ratio >= _RISES:
                of = " + ".join(prior.names[place.start + i] for i in edge.of)
                found[of] = (
                    f"{mass:.0%} of the posterior of {of} lies within the last {LAST:.0%} of its prior, at the "
                    f"{edge.side} bound of {_with_unit(edge.bound, prior.units[place.start])}, and rises up to it"
                )
    return found


def _existing(draws: Draws, place: int) -> tuple[Tensor, Tensor]:
    """Draws in which a parameter exists, and their weights.

    Both are empty where the parameter exists in less than a twentieth of the posterior.
    """
    there = ~draws.theta[:, place].isnan()
    if bool(there.all()):
        return draws.theta, draws.weights
    weights = draws.weights[there]
    if not len(weights) or float(weights.sum()) < _SOME:
        return draws.theta[:0], weights[:0]
    return draws.theta[there], weights / weights.sum()


def _far(prior: Prior, drawn: Tensor, draws: Draws, said: list[str]) -> list[str]:
    """Sentences on the medians outside the central part of the prior.

    Args:
        prior: The prior.
        drawn: Draws of the prior, (D, n).
        draws: Draws of the answer.
        said: Parameters to leave out, because another sentence already names them.
    """
    medians, found = _medians(prior, draws), []
    shares = (drawn < medians[: len(drawn), None]).double().mean(1)
    for place, (name, unit) in enumerate(zip(prior.names, prior.units, strict=True)):
        each, median, below = drawn[place], medians[place], float(shares[place])
        if prior.mixed:
            each = each[~each.isnan()]
            if bool(median.isnan()) or len(each) < 1 / _FAR:
                continue
            below = float((each < median).double().mean())
        if name in said or _FAR <= below <= 1 - _FAR:
            continue
        low, high = each.kthvalue(round(_FAR * len(each))).values, each.kthvalue(round((1 - _FAR) * len(each))).values
        side = "below" if below < _FAR else "above"
        found.append(
            f"the median of {name}, {_with_unit(float(median), unit)}, lies {side} the central {1 - 2 * _FAR:.1%} of "
            f"its prior, {low:.3g} to {_with_unit(float(high), unit)}"
        )
    return found


def _medians(prior: Prior, draws: Draws) -> Tensor:
    """Median of each parameter; NaN for a parameter that is discrete or hardly exists."""
    if not prior.mixed:
        return draws.quantile(0.5)
    found, discrete = torch.full((len(prior),), torch.nan, dtype=torch.float64), prior.discrete()
    for place, name in enumerate(prior.names):
        theta, weights = _existing(draws, place)
        if name not in discrete and len(theta):
            ordered, order = theta[:, place].double().sort()
            middle = int((weights[order].cumsum(0) < 0.5).sum().clamp(max=len(ordered) - 1))
            found[place] = ordered[middle]
    return found


def _with_unit(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".strip()


def leaning(v: Tensor, weights: Tensor) -> tuple[float, float]:
    """Posterior mass within the prior's last per cent before a bound, and the ratio t_.9 / t_.5.

    Args:
        v: The prior's probability between each draw and the bound, (n,).
        weights: Weights of the draws, (n,), which sum to one.
    """
    mass = float(weights[v <= LAST].sum())
    ordered, order = v.sort()
    cumulative = weights[order].cumsum(0)
    half, most = (float(ordered[int((cumulative < q).sum().clamp(max=len(v) - 1))]) for q in (0.5, 0.9))
    return mass, most / half if half > 0 else math.inf


@final
class PriorBounds(Diagnostic):
    """Does the posterior lie at the edge of the prior: against a bound, or its median outside the central 99.9 %?"""

    name, cause = NAME, Cause.PRIOR

    def __call__(self, case: Case) -> Sequence[Finding]:
        return (case.bounds or Bounds(case.posterior.prior)).check(case.draws)
