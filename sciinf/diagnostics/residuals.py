r"""Does the model reproduce the data? Residuals of the data are compared with residuals of simulated data.

The data x_i, i = 1..n, are simulated around the answer (`diagnostics.around`); x_0 is the observation. Let s be the
learned summary and plain statistics of data (`diagnostics.plain`), and z the unbounded parameters. Then

    m_i = E[z | s(x_i)],   y_ij = E[y_j | m_i] + sd_j h(m_i) u_ij,

by least squares on m and its squares, with y the standardised numbers of the data and u_i the residuals. A statistic
T of the residuals, or one that the simulator names, is then regressed on m too. The remainder of T_0 is ranked among
the remainders of those T_i whose m_i is nearest to m_0.

**Why false alarms stay at their stated rate.** Where m contains all information of the data on z, p(x | m, z) does
not depend on z. Data with the same m then have the same distribution for any z that they were simulated from, and
T_0 is one more draw of it. A rank among data from the posterior itself (`diagnostics.predictive`) stays near the
middle instead, because the posterior has seen x_0 and not the x_i. Each regression but the first, of z, treats all n
+ 1 rows alike. If the regression had not seen the observation, its residual would be too large among residuals that
the regression has seen.

Let l_k be the logarithm of the p-value of T_k. Below 0.1 the p-value comes from the mean excess of the tail, so that
values farther out count for more. Then

    t_i = min_k l_k(x_i) + log c_k,    p = #{i = 0..n: t_i <= t_0} / (n + 1),

is uniform, for any dependence between the statistics and any c_k. c_k is 2 for the largest residual and the
kurtosis, which depend most on the distribution, 4 for the runs, which are coarse, and 1 for the others.

For an observable with residuals w, scaled to mean 0 and variance 1:

| statistic | formula |
|---|---|
| largest | max_j abs(u_j) |
| spread | sd of u, where parameters do not determine it |
| skewness, kurtosis | mean of w^3, of w^4 |
| distribution | 1 - correlation of the sorted w with quantiles of all w_i |
| neighbours | mean of (w_j - w_j+1)^2, half of which is 1 - correlation; along each axis except "item" |
| runs | share of neighbours with different signs; for observables with one such axis |

References:
    | p-values for composite null models (Bayarri & Berger, 2000), https://doi.org/10.2307/2669749
    | An analysis of variance test for normality (Shapiro & Wilk, 1965), https://doi.org/10.1093/biomet/52.3-4.591
    | Distribution of the ratio of the mean square successive difference to the variance (von Neumann, 1941),
      https://doi.org/10.1214/aoms/1177731677
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sciinf.core import Batch, Case, Cause, Diagnostic, Finding, Level, Need, Observable, Posterior, Simulator, X
from sciinf.core.summary import expand_mask
from sciinf.core.verdict import COMBINED
from sciinf.diagnostics.around import Around
from sciinf.diagnostics.plain import leading, plain_statistics
from sciinf.networks.summaries.standardise import Standardise
from sciinf.networks.summaries.timed import seen_only

NAME = "residuals"
_ALARM, _UNUSUAL = 0.01, 0.05
_PER = 25  # Rows for each coefficient.
_NEAR = 0.5  # Share of the rows that a statistic is ranked among.
_TAIL = 0.1  # Below this p-value, p-values come from the mean excess.
_TIED = 1e-4  # Values that differ by fewer sds than this are equal.
_FREE = 0.25  # Least sd of the spread, relative to chance, at which parameters leave the spread free.
_ENOUGH = 5  # With fewer numbers, only the largest residual is tested.
_AXES = 3
_TOLD = 3
_SAID, _COARSE = 2.0, 4.0
_LARGE = 4_000  # With more numbers than this, single precision is enough.
_PASSES = 8
_POOLED = 1_000_000


@dataclass(frozen=True)
class Statistic:
    """A statistic of each simulated row and of the observation, which comes last.

    Args:
        value: Value for each row, (n + 1,).
        words: Name of the statistic.
        figure: How a value is reported: unchanged ("same"), as exp(value) ("exp"), in sds ("sds"), or as the
            correlation 1 - exp(value) / 2 ("correlation").
        upper: Whether only large values are strange.
        share: Factor by which the statistic's p-value must be smaller than others to count as much.
    """

    value: Tensor
    words: str
    figure: str = "same"
    upper: bool = False
    share: float = 1.0


def check_residuals(
    posterior: Posterior, simulator: Simulator, x: X, around: Around | str | None
) -> tuple[Finding, ...]:
    """Return the finding about one observation; `figures` has the p-value, where there is one.

    Args:
        posterior: Posterior that was learned; only its summary of the data is used.
        simulator: Simulator of the data, with its `statistics`.
        x: The observation, name -> (1, *event).
        around: Simulations around the answer (`around_answer`), or the reason why there are none.
    """
    around = "the simulator makes data of another form than the observation" if around is None else around
    found = around if isinstance(around, str) else residual_p(posterior, simulator, x, around)
    if found is None:
        return ()
    if isinstance(found, str):
        return (Finding(NAME, Level.UNKNOWN, f"not checked whether the model reproduces the data: {found}"),)
    p, most, rows = found
    model = f"with {around.given} the model" if isinstance(around, Around) and around.given else "the model"
    figures = {"p": p, COMBINED: True}
    if p >= _UNUSUAL:
        words = f"{model} reproduces the data: what it leaves unexplained looks like its noise (p = {p:.2g})"
        return (Finding(NAME, Level.GOOD, words, figures=figures),)
    words = (
        f"{model} does not reproduce the data: {most} (p = {p:.2g} among {rows:,} simulations around the answer, all "
        "statistics together). Look at the residuals; the noise may have another law, or something is missing from "
        "the simulator"
    )
    if p < _ALARM:
        return (Finding(NAME, Level.ALARM, words, figures=figures),)
    words = words.replace("does not reproduce", "may not reproduce")
    return (Finding(NAME, Level.CAUTION, words, figures=figures),)


def residual_p(posterior: Posterior, simulator: Simulator, x: X, around: Around) -> tuple[float, str, int] | str | None:
    """The p-value, words on the largest departures, and the number of simulations; or the reason why there is none.

    None where at most as many numbers vary as there are parameters, which then leave no residuals.
    """
    data = {name: torch.cat([around.data[name], x[name]]) for name in posterior.observables}
    standard = Standardise(seen_only(posterior.observables))
    standard.fit(lambda: iter((Batch(torch.empty(len(around.z) + 1, 0), data),)))
    count = sum(int((value != value[0]).any(0).sum()) for value in (data[name] for name in standard.specs))
    told = simulator.statistics(data) if simulator.statistics else {}
    free = count > around.z.shape[1]
    if not free and not told:
        return None
    means = explained(posterior, x, around, data)
    if means is None:
        return "data do not vary around the answer"
    basis = basis_of(means)
    statistics: list[Statistic] = []
    kind = torch.float64 if count <= _LARGE else torch.float32
    for name, value in standard(data, dtype=kind).items() if free else ():
        mask = expand_mask(data[standard.masks[name]], value.shape) if name in standard.masks else None
        u, present = residuals(value, mask, standard.specs[name], basis)
        statistics += statistics_of(name, u, present, standard.specs[name])
    statistics += [_named(name, value, len(basis)) for name, value in told.items()]
    return ranked(statistics, basis, nearest(means))


def explained(posterior: Posterior, x: X, around: Around, data: X) -> Tensor | None:
    """Standardised m of every row, (n + 1, D); None where the data do not vary."""
    seen = {name: around.data[name] for name in posterior.observables}
    plain = plain_statistics(seen_only(posterior.observables), seen, x)
    design = leading(plain, posterior.features(data).double())
    if not design.shape[1]:
        return None
    design = torch.cat([torch.ones(len(design), 1, dtype=torch.float64), design], dim=1)
    means = design @ _coefficients(around.z, design[:-1])
    return (means - means.mean(0)) / means.std(0).clamp_min(1e-12)


def basis_of(means: Tensor) -> Tensor:
    """Regression basis: 1, m, and squares and products of m as far as the number of rows allows, (n + 1, K)."""
    near, size = means.clamp(-4, 4), means.shape[1]
    most = len(means) // _PER - 1 - size
    pairs = [(i, j) for i in range(size) for j in range(i, size)]
    pairs = pairs if len(pairs) <= most else [(i, i) for i in range(size) if size <= most]
    products = [near[:, i] * near[:, j] for i, j in pairs]
    return torch.stack([near.new_ones(len(near)), *near.T, *products], dim=1)


def _coefficients(y: Tensor, basis: Tensor) -> Tensor:
    """Least-squares coefficients, float64; sums over rows have the precision of `y`."""
    return torch.linalg.pinv(basis.T @ basis, hermitian=True) @ (basis.to(y.dtype).T @ y).double()


def fitted(y: Tensor, basis: Tensor) -> Tensor:
    """Prediction of y by the basis, (n + 1, J), with all rows treated alike."""
    return basis.to(y.dtype) @ _coefficients(y, basis).to(y.dtype)


def nearest(means: Tensor) -> Tensor:
    """Indices of the rows whose m is nearest to the observation's, in sds of all rows, with the observation last."""
    size = means.shape[1]
    if not size:  # Without a parameter that varies, all rows are alike.
        return torch.arange(len(means))
    whole = torch.linalg.pinv(torch.cov(means.T).reshape(size, size), hermitian=True)
    away = means[:-1] - means[-1]
    order = ((away @ whole) * away).sum(1).argsort()[: math.ceil(_NEAR * len(away))]
    return torch.cat([order, torch.tensor([len(away)])])


def residuals(value: Tensor, mask: Tensor | None, spec: Observable, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals u, 0 where a number is missing, and a mask, 1 where a number is present, both (n + 1, *event)."""
    items = [axis for axis, name in enumerate(spec.dims, start=1) if name == "item"]
    present = torch.ones_like(value) if mask is None else mask.to(value.dtype)
    fit = middles(value, present, items, basis)
    # A missing number repeatedly takes its predicted value.
    for _ in range(0 if mask is None or items else _PASSES):
        fit = middles(torch.where(present > 0, value, fit), torch.ones_like(value), items, basis)
    u = (value - fit) * present
    axes = (0, *items)
    sd = (u.square().sum(axes, keepdim=True) / present.sum(axes, keepdim=True).clamp_min(1)).sqrt()
    u = torch.where(sd > 1e-6, u / sd.clamp_min(1e-6), 0.0)
    inner = tuple(range(1, value.ndim))
    size = (u.square().sum(inner) if inner else u.square()) / _counts(present).clamp_min(1)
    scale = fitted(0.5 * size.clamp_min(1e-9).log()[:, None], basis)[:, 0].exp()
    return u / scale.reshape(-1, *[1] * len(inner)), present


def middles(value: Tensor, present: Tensor, items: list[int], basis: Tensor) -> Tensor:
    """Prediction of each number by the basis; items are exchangeable, so the prediction is that of their mean."""
    total = (value * present).sum(items, keepdim=True) if items else value * present
    count = present.sum(items, keepdim=True) if items else present
    known = total / count.clamp_min(1)
    middle = known.sum(0) / (count > 0).sum(0).clamp_min(1)
    known = torch.where(count > 0, known, middle)
    return fitted(known.reshape(len(value), -1), basis).reshape(known.shape)


def _counts(present: Tensor) -> Tensor:
    return present.reshape(len(present), -1).sum(1)


def statistics_of(name: str, u: Tensor, present: Tensor, spec: Observable) -> list[Statistic]:
    """Statistics of one observable's residuals."""
    flat, there = u.reshape(len(u), -1), present.reshape(len(u), -1)
    count = there.sum(1).clamp_min(1)
    top, which = flat.abs().max(1)
    place = torch.unravel_index(which[-1], spec.shape) if spec.shape else ()
    at = f" (at {', '.join(str(int(i)) for i in place)})" if place else ""
    enough = flat.shape[1] >= _ENOUGH
    words = f"the largest residual of {name!r}{at}"
    found = [Statistic(top.clamp_min(1e-9).log(), words, "sds", upper=True, share=_SAID if enough else 1.0)]
    if not enough:
        return found
    w = (flat - (flat.sum(1) / count)[:, None]) * there
    sd = (w.square().sum(1) / count).sqrt().clamp_min(1e-9)
    w = w / sd[:, None]
    if float(sd.log().std()) > _FREE / math.sqrt(2 * float(count.mean())):
        found.append(Statistic(sd.log(), f"the spread of the residuals of {name!r}", "exp"))
    third, fourth = w.pow(3).sum(1) / count, (w.pow(4).sum(1) / count).clamp_min(1e-9).log()
    law = f"the distance of the law of the residuals of {name!r} from that of simulations"
    found += [
        *_ordered(name, w.reshape(u.shape), present, spec),
        Statistic(third, f"the skewness of the residuals of {name!r}"),
        Statistic(fourth, f"the kurtosis of the residuals of {name!r}", "exp", share=_SAID),
        Statistic(_departure(w, there), law, "exp", upper=True),
    ]
    return found


def _departure(w: Tensor, there: Tensor) -> Tensor:
    """log(1 - correlation) of the sorted numbers of each row with the quantiles of all numbers, (n + 1,)."""
    every = w[there > 0]
    every = every[:: 1 + len(every) // _POOLED].sort().values
    count = there.sum(1).clamp_min(1)
    ordered = torch.where(there > 0, w, math.inf).sort(1).values
    place = (torch.arange(w.shape[1], dtype=w.dtype) + 0.5) / count[:, None]
    known = place < 1
    alike = every[(place.clamp(max=1 - 1e-9) * len(every)).long().clamp(max=len(every) - 1)]
    ordered, alike = torch.where(known, ordered, 0.0), torch.where(known, alike, 0.0)
    alike = torch.where(known, alike - (alike.sum(1) / count)[:, None], 0.0)
    both = (ordered * alike).sum(1) / (ordered.norm(dim=1) * alike.norm(dim=1)).clamp_min(1e-9)
    return (1 - both).clamp_min(1e-9).log()


def _ordered(name: str, w: Tensor, present: Tensor, spec: Observable) -> list[Statistic]:
    """Statistics of neighbours and runs along each axis that is not "item"."""
    names = spec.dims or ("",) * len(spec.shape)
    axes = [i for i, axis in enumerate(names) if axis != "item" and spec.shape[i] >= _ENOUGH][:_AXES]
    found = []
    for axis in axes:
        length = w.shape[axis + 1]
        first, second = w.narrow(axis + 1, 0, length - 1), w.narrow(axis + 1, 1, length - 1)
        both = present.narrow(axis + 1, 0, length - 1) * present.narrow(axis + 1, 1, length - 1)
        of = f"neighbouring residuals of {name!r}" + (f" along {names[axis]!r}" if names[axis] else "")
        step = _mean((first - second).square(), both).clamp_min(1e-9).log()
        found.append(Statistic(step, f"the correlation of {of}", "correlation"))
        if len(axes) == 1:
            turns = _mean(((first > 0) != (second > 0)).to(w.dtype), both)
            found.append(Statistic(turns, f"the share of {of} that differ in sign", share=_COARSE))
    return found


def _mean(value: Tensor, present: Tensor) -> Tensor:
    """Mean of each row over the present numbers, (n + 1,); where none is present, the mean of all rows."""
    total, count = (value * present).reshape(len(value), -1).sum(1), _counts(present)
    return torch.where(count > 0, total / count.clamp_min(1), total.sum() / count.sum().clamp_min(1))


def _named(name: str, value: Tensor, rows: int) -> Statistic:
    """A statistic that the simulator defines.

    Raises:
        ValueError: If the statistic does not have one number for each row.
    """
    if tuple(value.shape) != (rows,):
        raise ValueError(
            f"the simulator's statistic {name!r} has shape {tuple(value.shape)} for {rows} rows; return one number for "
            f"each, of shape ({rows},)"
        )
    value = value.double()
    known = value[value.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    value = value.nan_to_num(nan=high + (high - low), posinf=high + (high - low), neginf=low - (high - low))
    return Statistic(value, name)


def ranked(statistics: list[Statistic], basis: Tensor, rows: Tensor) -> tuple[float, str, int]:
    """Joint p-value of the observation, words on its largest departures, and the number of simulations.

    The observation is the last of `rows`, among which it is ranked.
    """
    logs, left = [], []
    for one in statistics:
        value = one.value.double()
        left.append((value - fitted(value[:, None], basis)[:, 0])[rows])
        logs.append(log_p(left[-1], one.upper) + math.log(one.share))
    each = torch.stack(logs, dim=1)
    least = each.amin(1)
    p = float((least <= least[-1] + 1e-6).double().mean())
    clear = each[-1] <= max(float(least[-1]), math.log(_ALARM / len(statistics)))
    told = [_told(one, rest) for one, rest, shown in zip(statistics, left, clear.tolist(), strict=True) if shown]
    return p, "; ".join(told[:_TOLD]), len(rows) - 1


def _told(one: Statistic, left: Tensor) -> str:
    """Sentence on one statistic of the observation, with the range of 98 of 100 simulations."""
    value = float(one.value[-1])
    edges = torch.quantile(left, torch.tensor([0.01, 0.99], dtype=torch.float64)) + (value - float(left[-1]))
    figures = [_figure(value, one.figure), *sorted(_figure(edge, one.figure) for edge in edges.tolist())]
    seen, low, high = (f"{figure:.3g}" for figure in figures)
    return f"{one.words} is {seen}{' sds' if one.figure == 'sds' else ''} ({low} to {high} in 98 % of simulations)"


def _figure(value: float, kind: str) -> float:
    if kind == "same":
        return value
    return 1 - math.exp(value) / 2 if kind == "correlation" else math.exp(value)


def log_p(value: Tensor, upper: bool) -> Tensor:
    """Log p-value of each value among all values, (..., n), with mid-ranks for ties.

    It is two-sided, unless only large values are strange (`upper`).
    """
    high = _above(value)
    return high if upper else torch.minimum(high, _above(-value)) + math.log(2)


def _above(value: Tensor) -> Tensor:
    ordered, same = value.sort(-1).values, _TIED * value.std(-1, keepdim=True) + 1e-300
    below = torch.searchsorted(ordered, value - same) + torch.searchsorted(ordered, value + same, right=True)
    body = 1 - below.double() / (2 * value.shape[-1])
    edge = ordered[..., int((1 - _TAIL) * value.shape[-1]), None]
    excess = (ordered - edge).clamp_min(0).sum(-1, keepdim=True) / (ordered > edge).sum(-1, keepdim=True).clamp_min(1)
    tail = math.log(_TAIL) - (value - edge) / excess.clamp_min(1e-300)
    return torch.where(value > edge + same, tail, body.clamp_min(_TAIL).log())


def log_rank(value: Tensor) -> Tensor:
    """Log share of the values along the last axis that are at least as large as each value, (..., n).

    It is for whole numbers, which tie. A value above all others is less likely by a factor of e for each unit that
    it lies above the next value.
    """
    ordered = value.sort(-1).values
    share = (1 - torch.searchsorted(ordered, value.contiguous()).double() / value.shape[-1]).log()
    return share - (value - ordered[..., -2, None]).clamp_min(0)


@final
class Residuals(Diagnostic):
    """Do the residuals that the parameters do not explain look like the noise of the model?"""

    name, cause, needs = NAME, Cause.MODEL, frozenset({Need.AROUND})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        return check_residuals(case.posterior, case.simulator, case.x, case.around)
