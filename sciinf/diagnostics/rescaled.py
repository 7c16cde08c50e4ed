r"""Does the model predict when events happen?

Intervals between events, in the model's own time, are compared with those of simulations.


Where a simulator's `rescaled(theta, x)` knows the rate of events, it gives a number u for each interval. These
numbers are Uniform(0, 1) and independent of each other, if the model is right. Two departures of n numbers are
tested,

    law:         T = sqrt(n) max_u |F(u) - u|,            F their distribution (Kolmogorov and Smirnov),
    neighbours:  T = sqrt(n) |corr(v_i, v_{i+1})|,        v = Phi^-1(u),

The second detects a rate that varies more, or has more memory, than the model says. The parameters come from the
same data, which then fit better than they would with the true parameters. So T does not have its tabulated
distribution. Instead, each T is compared with that of simulated data at the parameters that they were simulated
from,

    theta_i ~ p(theta | x),   x~_i ~ p(x~ | theta_i),   p_T = P(T(theta_i, x~_i) >= T(theta_i, x)),

and p = min(1, 2 min p_T) is reported, because there are two tests. For the model's own data and their exact
posterior, theta_i is as good as the true theta, and p_T stays near the middle. So alarms are rarer than their
p-values say, the more so where data leave the parameters wide. A good result is thus weak evidence; held-out data
are stronger evidence (`simulators.dynamics.points.rescaled`).

References:
    | The time-rescaling theorem and its application to neural spike train data analysis (Brown et al., 2002),
      https://doi.org/10.1162/08997660252741149
    | Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng, Stern, 1996, eq. 8),
      https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Case, Cause, Diagnostic, Finding, Level, Need, Simulator, X

NAME = "intervals"
_ALARM, _UNUSUAL = 0.01, 0.05
_LEAST, _FEW = 200, 5  # Least number of pairs, and of intervals.
_EDGE = 1e-6


def check_rescaled(simulator: Simulator | None, x: X, theta: Tensor, simulated: X) -> tuple[Finding, ...]:
    """Return the finding about one observation; empty without `rescaled`, or where too little was simulated.

    Args:
        simulator: Simulator with the rates.
        x: The observation, name -> (1, *event).
        theta: Draws of the posterior, (m, D), with equal weights (resampled).
        simulated: Data simulated from each draw, name -> (m, *event).

    Raises:
        ValueError: If `rescaled` gives numbers outside 0 to 1, or a shape that is not (batch, any).
    """
    if simulator is None or simulator.rescaled is None or len(theta) < _LEAST:
        return ()
    wide = {name: value.expand(len(theta), *value.shape[1:]) for name, value in x.items()}
    seen, own = (_numbers(simulator.rescaled(theta, data), len(theta)) for data in (wide, simulated))
    if int((~seen.isnan()).sum(1).min()) < _FEW:
        return (Finding(NAME, Level.UNKNOWN, f"fewer than {_FEW} intervals between events: not checked"),)
    found = []
    for statistic in (departure, neighbours):
        one, other = statistic(seen).abs(), statistic(own).abs()
        above = float((other > one).sum()) + 0.5 * float((other == one).sum()) + 0.5
        found.append(above / (len(theta) + 1))
    p = min(1.0, 2 * min(found))
    if p >= _UNUSUAL:
        words = (
            f"events come when the model says: intervals in its own time look like those of simulations (p = {p:.2g})"
        )
        return (Finding(NAME, Level.GOOD, words, figures={"p": p}),)
    what = _law(seen) if found[0] <= found[1] else _memory(seen)
    words = (
        f"the model does not say when events come: {what} (p = {p:.2g} among {len(theta)} simulations, both tests "
        "together). Its rate lacks something, such as another input, adaptation or recovery"
    )
    return (Finding(NAME, Level.ALARM if p < _ALARM else Level.CAUTION, words, figures={"p": p}),)


def departure(u: Float[Tensor, "row interval"]) -> Float[Tensor, " row"]:
    """Value of sqrt(n) (F(u) - u) that is largest in size, with its sign; NaN are left out.

    Args:
        u: Numbers that should be Uniform(0, 1).
    """
    at, gap = _gaps(u)
    return gap.gather(1, at[:, None])[:, 0] * _count(u).sqrt()


def neighbours(u: Float[Tensor, "row interval"]) -> Float[Tensor, " row"]:
    """Correlation of the normal scores of neighbours, times sqrt(n); NaN are left out.

    Args:
        u: Numbers that should be Uniform(0, 1), in order.
    """
    score = torch.special.ndtri(u.clamp(_EDGE, 1 - _EDGE))
    both = ~(score[:, 1:].isnan() | score[:, :-1].isnan())
    count = both.sum(1).clamp_min(1).double()
    first, second = (torch.where(both, part, 0.0) for part in (score[:, :-1], score[:, 1:]))
    first, second = (
        torch.where(both, part - part.sum(1, keepdim=True) / count[:, None], 0.0) for part in (first, second)
    )
    size = (first.square().sum(1) * second.square().sum(1)).sqrt().clamp_min(1e-300)
    return (first * second).sum(1) / size * count.sqrt()


def _gaps(u: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the sorted number where F departs most, (row,), and the departure at each number, (row, interval)."""
    ordered, count = u.nan_to_num(math.inf).sort(1).values, _count(u)[:, None].clamp_min(1)
    place = torch.arange(u.shape[1], dtype=torch.float64, device=u.device)
    above, below = (place + 1) / count - ordered, place / count - ordered
    gap = torch.where(above.abs() >= below.abs(), above, below).masked_fill(ordered == math.inf, 0.0)
    return gap.abs().argmax(1), gap


def _count(u: Tensor) -> Tensor:
    return (~u.isnan()).sum(1).double()


def _law(u: Tensor) -> str:
    """Sentence on the place where F departs most, for the draw with the median departure."""
    at, gap = _gaps(u)
    most = gap.gather(1, at[:, None])[:, 0]
    row = int(most.abs().argsort()[len(most) // 2])
    place = float(u.nan_to_num(math.inf).sort(1).values[row, at[row]])
    share = place + float(most[row])
    return f"{share:.0%} of the intervals between events are shorter than those of which the model says {place:.0%}"


def _memory(u: Tensor) -> str:
    pairs = (_count(u) - 1).clamp_min(1).sqrt()
    size = float((neighbours(u) / pairs).median())
    return f"neighbouring intervals between events, in the model's own time, are correlated by {size:.2g}"


def _numbers(u: Tensor, rows: int) -> Float[Tensor, "row interval"]:
    """Check the result of `rescaled` and convert it to double precision."""
    if u.ndim != 2 or len(u) != rows or bool(((u < 0) | (u > 1)).any()):
        size = "numbers outside 0 to 1" if u.ndim == 2 and len(u) == rows else f"shape {tuple(u.shape)}"
        raise ValueError(f"the simulator's `rescaled` gives {size}, expected ({rows}, any) from 0 to 1, NaN for none")
    return u.double()


@final
class Intervals(Diagnostic):
    """Do events come when the model says? Shown only where the simulator has `rescaled`."""

    name, cause, needs = NAME, Cause.MODEL, frozenset({Need.PREDICTIONS})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        return check_rescaled(case.simulator, case.x, case.theta, case.predicted)
