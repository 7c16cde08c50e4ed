r"""Does the posterior lean on a bound of the prior, as if what it looks for lay beyond?

Of each parameter and bound, with v the prior's probability between a draw and the bound and t_q the q-quantile of v
over the posterior:

- leaning: at least a fifth of the posterior within the prior's last per cent, twenty times what the prior has there;
- rising: t_.9 / t_.5 at least 3.02, its value for a normal density whose peak lies two sds beyond the bound. A normal
  density that peaks at the bound has 2.44, one that peaks inside less, an exponential one 3.32.

A truth near the bound leans on it and does not rise; a parameter that the data do not tell of does neither. For a
truth drawn from the prior, the posterior has on average one per cent of its mass in the last per cent, so by Markov's
inequality leaning alone happens in at most 5 % of the answers at each bound, whatever the model. Both together happen
for normal likelihoods in a share of at most 0.009 sd / width of the prior; the 5 % are nearly reached only by
likelihoods that fall off exponentially from the bound, as upper limits do.
"""

from __future__ import annotations

import math

from torch import Tensor

from sciinf.core import Check, Draws, Prior
from sciinf.core.laws import edges_of

_LAST = 0.01  # of the prior
_LEANS = 0.2  # of the posterior
_RISES = 3.02
NAME = "prior bounds"


def check_bounds(prior: Prior, draws: Draws) -> tuple[Check, ...]:
    """The finding about all bounds of the prior, none where it has none.

    Args:
        prior: The prior.
        draws: Of its parameters, and perhaps of more after them, weighted.
    """
    found, looked = [], False
    for law, place in prior.places():
        for edge in edges_of(law, draws.theta[:, place].double()):
            looked = True
            mass, ratio = leaning(edge.between, draws.weights)
            if mass >= _LEANS and ratio >= _RISES:
                unit = f" {prior.units[place.start]}" if prior.units[place.start] else ""
                of = " + ".join(prior.names[place.start + i] for i in edge.of)
                found.append(
                    f"{mass:.0%} of the posterior of {of} lies within the last {_LAST:.0%} of its prior, at the "
                    f"{edge.side} bound of {edge.bound:g}{unit}, and rises up to it"
                )
    if found:
        words = (
            f"{'; '.join(found)}: the value may lie beyond. Widen the prior there and simulate again; where nothing "
            "can lie beyond, read the answer as a limit"
        )
        return (Check(NAME, "caution", words),)
    return (Check(NAME, "good", "the posterior does not lean on a bound of the prior"),) if looked else ()


def leaning(v: Tensor, weights: Tensor) -> tuple[float, float]:
    """The posterior's mass within the prior's last per cent, and t_.9 / t_.5.

    Args:
        v: The prior's probability between each draw and the bound, (n,).
        weights: Of the draws, summing to one.
    """
    mass = float(weights[v <= _LAST].sum())
    ordered, order = v.sort()
    cumulative = weights[order].cumsum(0)
    half, most = (float(ordered[int((cumulative < q).sum().clamp(max=len(v) - 1))]) for q in (0.5, 0.9))
    return mass, most / half if half > 0 else math.inf
