r"""Strange numbers of the observation: those far from their prediction by the other numbers.

The data x_i, i = 1..n, are simulated around the answer (`diagnostics.around`), and x_0 is the observation. Let m_i
be the means of the parameters and h(m_i) the size of noise that m explains (`diagnostics.residuals`). Let y_i be the
standardised data without the part that is curved in m, and P their precision matrix, which gives v = P y
(`diagnostics.conditional`). Then

    w = (v - E[v | m]) / h(m),   z_k = w_k / sd(w_k)

by least squares on m, with all n + 1 rows treated alike. The answer has moved to the observation, but not to the
simulations; given m, both have the same distribution. A marginal score (y_k - E y_k) / sd(y_k) divides a number's
distance by all the variation that it shares with others through parameters and noise. z_k divides by the part that
the others do not predict.

For a direction d of the data, d^T w is the score of a fault d, the best test of it for normal data. Boxes are the
whole of an observable and its parts (`diagnostics.boxes`).

| family | statistics | it detects |
|---|---|---|
| number | z_k of each number, in the root mean square of all if a box has several numbers | one wrong number |
| level | sum of w over each box | a sensor or a time that is off |
| drift | sum of t w over each box, t linear along an axis | a drift |
| size | log of the mean of z^2, over the whole, and over each box relative to all | noise of another size |
| repeated | numbers of equal values at each index of an axis (`repeats`) | a dead sensor, saturation |

Each statistic has a p-value from its rank among the rows whose m is nearest. Below 0.1 it comes from the mean excess
of its tail. For a number of equal values, it comes from its rank and from how far it is above all others. The least
p-value of a family is ranked among those of all rows, and so is the least over the families. So p is uniform.

**Which.** The number with the least p-value is set aside: everything is computed again with the prediction from the
others in its place. When nothing is strange any more, the numbers set aside are the strange ones. Otherwise the
result is a box: the box with the least p-value of a size, or with the farthest sum. Where values are repeated too
often, it is the smallest box that contains them.

**Limits.** Two kinds of fault cannot be seen. One is a fault that other parameters would produce as well. The other
is a fault of a number whose shift moves the answer by two sds before it reaches one of the number's own sds
(`diagnostics.conditional.shows`).

**Repeated values.** How often one value is repeated in a part of the data: a fault of an instrument repeats it
often.

| statistic | it detects |
|---|---|
| equal values, anywhere | a dead sensor, a filled gap |
| values equal to the largest, or to the least | saturation, a limit, counts that are cut off |
| equal values one after the other, except along items | a sensor that hangs |
| all values, if each occurs twice, or each three times, ... | a table that was appended to itself |

Rounded data, which nearly all measured data are, repeat values by rounding alone. So a part of the data and its
simulations are counted in steps. A step leads from the value that the observation repeats most often to the nearest
other values that it repeats, above and below, whichever is farther. If it repeats no other value, the step leads to
the nearest of all values. For the ends and for runs, a step is the least difference of two observed values if one
value alone is repeated. If several are repeated, a step at an end leads to the next value, and for runs simulated
values are replaced by the nearest observed ones. Fewer than four equal values do not count, nor do fewer than three
at an end or in a run, nor fewer than four different values that all occur twice.

References:
    | Residuals and Influence in Regression (Cook & Weisberg, 1982), https://hdl.handle.net/11299/37076
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from sciinf.core import Batch, Case, Cause, Diagnostic, Finding, Level, Need, Observable, Posterior, Strange, X
from sciinf.core.summary import expand_mask
from sciinf.core.verdict import COMBINED
from sciinf.diagnostics.around import Around
from sciinf.diagnostics.boxes import Box, Layout, box_words, layout_of
from sciinf.diagnostics.conditional import conditional, precision_of, shows
from sciinf.diagnostics.residuals import basis_of, explained, fitted, log_p, log_rank, nearest
from sciinf.networks.summaries.standardise import Standardise
from sciinf.networks.summaries.timed import seen_only

NAME = "strange data"
Kind = Literal["number", "level", "drift", "size", "repeated", "copied"]
_ALARM = 0.01
_MOST = 3  # Largest number of numbers set aside.
_CONSTANT = 1e-6
_LARGE, _FEW = 1_000, 1_000  # With more numbers than the first, only as many rows as the second are used.
_PASSES = 8
_NAMED = 5


@dataclass(frozen=True)
class Scores:
    """Scores of n simulations and of the observation, which comes last.

    Args:
        w: Scores, (n + 1, J), 0 where a number is missing or set aside.
        present: 1 where a number is present, 0 where it is missing or set aside, (n + 1, J).
        rows: Indices of the rows to rank among, the observation last.
        layout: Numbers, boxes and fault directions.
        said: Prediction of each observed number from the others, in the units that `standard` gives, (J,).
        standard: Standardises data.
        shows: Shift of each number, in its conditional sds, that moves the answer by two sds, (J,).
        equal: Numbers of equal values in `lanes`, (L, n + 1).
        lanes: Boxes in which equal values are counted.
    """

    w: Tensor
    present: Tensor
    rows: Tensor
    layout: Layout
    said: Tensor
    standard: Standardise
    shows: Tensor
    equal: Tensor
    lanes: tuple[Box, ...]

    @property
    def z(self) -> Tensor:
        """w in units of its sds over `rows`."""
        w = self.w[self.rows]
        return w / w[:-1].std(0).clamp_min(1e-12)


@dataclass(frozen=True)
class Judged:
    """Judgement of the observation by its scores.

    Args:
        p: The p-value.
        score: Logarithm that p ranks; a smaller one is stranger.
        logs: Kind -> logarithms of the p-values of its statistics.
        least: Kind -> logarithm of the p-value of the kind's least p-value.
    """

    p: float
    score: float
    logs: Mapping[Kind, Tensor]
    least: Mapping[Kind, float]


def check_data(posterior: Posterior, x: X, around: Around | str | None) -> tuple[Finding, ...]:
    """Return the finding about one observation; `figures` lists its strange numbers, as JSON ("where").

    Args:
        posterior: Posterior that was learned; only its summary of the data is used.
        x: The observation, name -> (1, *event).
        around: Simulations around the answer (`around_answer`), or the reason why there are none.
    """
    scores = None
    if isinstance(around, Around) and around.z.shape[1]:  # Without a parameter that varies, there is nothing to do.
        scores = scores_of(posterior, x, around)
    if scores is None or not isinstance(around, Around):  # `residuals` reports the reason.
        return ()
    judged = judge(scores)
    words = f"p = {judged.p:.2g} among {len(scores.rows) - 1:,} simulations around the answer"
    if judged.p >= _ALARM:
        said = f"no part of the data is unlike what the others say of it ({words}); {_unseen(scores)}"
        return (Finding(NAME, Level.GOOD, said, figures={"p": judged.p, COMBINED: True}),)
    found = strange(posterior, x, around, scores, judged)
    each = "; ".join(in_words(one, scores.layout.specs[one.observable]) for one in found)
    said = f"{each} ({words}). Look at how it was measured, and ask without it; {_unseen(scores)}"
    figures = {"p": judged.p, COMBINED: True, "where": [one.to_json() for one in found]}
    return (Finding(NAME, Level.ALARM, said, figures=figures),)


def _unseen(scores: Scores) -> str:
    """Sentence on the faults that this check cannot see."""
    first = "a fault that other parameters would make as well cannot be seen"
    blind = (scores.shows < 1.0).nonzero()[:, 0].tolist()
    if not blind:
        return first
    layout = scores.layout
    told = [box_words(layout.number(k), layout.specs[layout.number(k).observable]) for k in blind[:_NAMED]]
    more = f" and {len(blind) - _NAMED} more" if len(blind) > _NAMED else ""
    return f"{first}, nor can one of {', '.join(told)}{more}, of which the others say too little"


def in_words(one: Strange, spec: Observable) -> str:
    """Sentence on one strange number or box."""
    place = box_words(Box(one.observable, one.start, one.stop), spec)
    if one.kind == "number":
        return f"{place} is {abs(one.z):.3g} sds {'above' if one.z > 0 else 'below'} what the others say of it"
    if one.kind == "size":
        return f"what the parameters do not explain of {place} is {one.z:.3g} times as large as in simulations"
    if one.kind == "repeated":
        return f"{place} holds one value {one.z:.0f} times"
    if one.kind == "copied":
        return f"every number of {place} is there at least twice, as in a table that was appended to itself"
    how = "together off" if one.kind == "level" else "drifting"
    return f"{place} is {how}, by {abs(one.z):.3g} sds of that"


def strange(posterior: Posterior, x: X, around: Around, scores: Scores, judged: Judged) -> tuple[Strange, ...]:
    """Fewest single numbers without which nothing is strange, the strangest first; otherwise the strangest box."""
    if judged.least.get("repeated", 0.0) < math.log(_ALARM):
        return (_most_repeated(scores, judged),)
    found, aside, seen, now, last = [], [], dict(x), scores, judged
    while last.p < _ALARM and len(aside) < _MOST:
        # Scores relative to the size of all would let one number hide another.
        logs = log_p(now.z.T.contiguous(), upper=False)[:, -1]
        k = int(logs.argmin())
        if float(logs[k]) + math.log(len(logs)) > math.log(_ALARM):
            break
        box = scores.layout.number(k)
        found.append(Strange(box.observable, box.start, box.stop, "number", float(now.z[-1, k])))
        aside.append(k)
        seen = _replaced(seen, now, k)
        again = scores_of(posterior, seen, around, tuple(aside))
        if again is None:
            break
        now, last = again, judge(again)
    if found and (last.p >= _ALARM or len(judged.least) == 1):
        return tuple(found)
    return (_strangest_box(scores, judged),) if len(judged.least) > 1 else _farthest(scores, judged)


def _farthest(scores: Scores, judged: Judged) -> tuple[Strange, ...]:
    """The number with the least p-value."""
    k = int(judged.logs["number"][:, -1].argmin())
    box = scores.layout.number(k)
    return (Strange(box.observable, box.start, box.stop, "number", float(scores.z[-1, k])),)


def _most_repeated(scores: Scores, judged: Judged) -> Strange:
    """The smallest of the boxes whose number of equal values has the least p-value."""
    logs = judged.logs["repeated"][:, -1]
    least = (logs <= logs.min()).nonzero()[:, 0].tolist()
    k = min(
        least, key=lambda i: math.prod(b - a for a, b in zip(scores.lanes[i].start, scores.lanes[i].stop, strict=True))
    )
    box = scores.lanes[k]
    kind: Kind = "copied" if k % STATISTICS == STATISTICS - 1 else "repeated"
    return Strange(box.observable, box.start, box.stop, kind, float(scores.equal[k, -1]))


def _strangest_box(scores: Scores, judged: Judged) -> Strange:
    """The strangest box: by its size of noise, or by its farthest sum.

    It is by its size if the sums are no farther off than noise of that size makes them.
    """
    statistics, layout, z = _statistics(scores), scores.layout, scores.z
    sums: dict[Kind, Tensor] = {one: statistics[one] for one in ("level", "drift") if one in statistics}
    each: dict[Kind, Tensor] = {k: v / v[:, :-1].std(1, keepdim=True).clamp_min(1e-12) for k, v in sums.items()}
    far = torch.cat(list(each.values())).abs().amax(0) / z.square().mean(1).sqrt().clamp_min(1e-12)
    chance = float((far >= far[-1]).double().mean())
    if judged.least["size"] < math.log(_ALARM) and chance > _ALARM:
        k = int(judged.logs["size"][:, -1].argmin())
        value, box = statistics["size"][k], layout.boxes[k]
        return Strange(box.observable, box.start, box.stop, "size", math.exp(0.5 * float(value[-1] - value.median())))
    kinds: list[Kind] = list(each)
    kind = max(kinds, key=lambda one: float(each[one][:, -1].abs().max()))
    k = int(each[kind][:, -1].abs().argmax())
    box = layout.boxes[layout.drifting[k] if kind == "drift" else k]
    return Strange(box.observable, box.start, box.stop, kind, float(each[kind][k, -1]))


def _replaced(x: X, scores: Scores, k: int) -> X:
    """The observation with number k replaced by its prediction from the others."""
    box, standard = scores.layout.number(k), scores.standard
    old = standard(x, dtype=torch.float64)
    value = old[box.observable].clone()
    place = (0, *box.start)
    value[place] = scores.said[k]
    new = standard.inverse({box.observable: value})[box.observable]
    given = x[box.observable].clone()
    given[place] = new[place].to(given.dtype) if given.is_floating_point() else new[place].round().to(given.dtype)
    return {**x, box.observable: given}


def scores_of(posterior: Posterior, x: X, around: Around, aside: tuple[int, ...] = ()) -> Scores | None:
    """Scores of simulations and observation; None where at most as many numbers vary as there are parameters.

    Args:
        posterior: Posterior whose summary of the data is used.
        x: The observation, name -> (1, *event).
        around: Simulations around the answer.
        aside: Indices, among the numbers that vary, of numbers that do not count.
    """
    rows = len(around.z)
    rows = min(rows, _FEW) if sum(math.prod(s.shape) for s in posterior.observables.values()) > _LARGE else rows
    data = {name: value[:rows] for name, value in around.data.items()}
    around = replace(around, z=around.z[:rows], theta=around.theta[:rows], data=data)
    data = {name: torch.cat([around.data[name], x[name]]) for name in posterior.observables}
    standard = Standardise(seen_only(posterior.observables))
    standard.fit(lambda: iter((Batch(torch.empty(rows + 1, 0), data),)))
    means = explained(posterior, x, around, data)
    if means is None:
        return None
    basis = basis_of(means)
    y, present = _straight(data, standard, basis, means.shape[1])
    middle, sd = y[:-1].mean(0), y[:-1].std(0)
    kept = (sd > _CONSTANT).nonzero()[:, 0]
    if len(kept) - len(aside) <= around.z.shape[1]:
        return None
    y, present, sd = ((y - middle) / sd.clamp_min(_CONSTANT))[:, kept], present[:, kept], sd[kept]
    present[:, list(aside)] = 0.0
    precision = precision_of(y[:-1])
    v = conditional(y, precision)
    own = precision.diagonal
    said = (y[-1] - v[-1] / own) * sd
    layout = layout_of(standard.specs, kept)
    w = _scaled((v - fitted(v, basis)) * present, own, present, layout, basis)
    # Equal data get equal scores, although the precision is of the simulations alone, because discrete data tie.
    equal = torch.stack([(value == value[-1:]).reshape(rows + 1, -1).all(1) for value in data.values()]).all(0)
    w = torch.where(equal[:, None], w[-1], w)
    shown = shows(y[:-1], precision, around.z)
    repeated, of = _equal(data, standard, layout)
    return Scores(w / sd, present, nearest(means), layout, said + middle[kept], standard, shown, repeated, of)


def _equal(data: X, standard: Standardise, layout: Layout) -> tuple[Tensor, tuple[Box, ...]]:
    """Numbers of equal values, and the box that each of them belongs to."""
    found, of = [torch.zeros(0, len(next(iter(data.values()))), dtype=torch.float64)], list[Box]()
    for name, spec in layout.specs.items():
        boxes = lanes(tuple(box for box in layout.boxes if box.observable == name), spec)
        if boxes:
            mask = data[standard.masks[name]] if name in standard.masks else None
            mask = None if mask is None else expand_mask(mask, data[name].shape) > 0
            found.append(repeats(data[name], mask, boxes, spec))
            of += [box for box in boxes for _ in range(len(found[-1]) // len(boxes))]
    return torch.cat(found), tuple(of)


def _straight(data: X, standard: Standardise, basis: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Standardised numbers without the part that is curved in m, and which are present, both (n + 1, numbers).

    A missing number repeatedly takes the value that m explains of it.
    """
    values, masks = [], []
    for name, value in standard(data, dtype=torch.float64).items():
        mask = expand_mask(data[standard.masks[name]], value.shape) if name in standard.masks else None
        present = torch.ones_like(value) if mask is None else mask.to(value.dtype)
        values.append(value.reshape(len(value), -1))
        masks.append(present.reshape(len(value), -1))
    y, present = torch.cat(values, dim=1), torch.cat(masks, dim=1)
    for _ in range(_PASSES if standard.masks else 0):
        y = torch.where(present > 0, y, fitted(y, basis))
    return y - fitted(y, basis) + fitted(y, basis[:, : 1 + size]), present


def _scaled(w: Tensor, own: Tensor, present: Tensor, layout: Layout, basis: Tensor) -> Tensor:
    """w divided by the size that m explains for each observable, in place of its own size."""
    found, first = w.clone(), 0
    for spec in layout.specs.values():
        last = first + math.prod(spec.shape)
        of = ((layout.kept >= first) & (layout.kept < last)).nonzero()[:, 0]
        first = last
        if len(of):
            size = (w[:, of].square() / own[of]).sum(1) / present[:, of].sum(1).clamp_min(1)
            scale = fitted(0.5 * size.clamp_min(1e-9).log()[:, None], basis).exp()
            found[:, of] = w[:, of] / scale
    return found


def judge(scores: Scores) -> Judged:
    """Compute the p-value of the observation, of each family, and of all families together."""
    logs: dict[Kind, Tensor] = {kind: log_p(value, upper=False) for kind, value in _statistics(scores).items()}
    least: dict[Kind, Tensor] = {kind: log_p(-value.amin(0), upper=True) for kind, value in logs.items()}
    if scores.lanes:
        logs["repeated"] = log_rank(scores.equal[:, scores.rows])
        least["repeated"] = log_rank(-logs["repeated"].amin(0))
    score = torch.stack(list(least.values())).amin(0)
    last: dict[Kind, float] = {kind: float(value[-1]) for kind, value in least.items()}
    return Judged(float((score <= score[-1] + 1e-6).double().mean()), float(score[-1]), logs, last)


def _statistics(scores: Scores) -> dict[Kind, Tensor]:
    """Statistics of each family that has any, (statistics, rows)."""
    w, z, present, layout = scores.w[scores.rows], scores.z, scores.present[scores.rows], scores.layout
    own = (z.square().sum(1) / present.sum(1).clamp_min(1)).clamp_min(1e-12)
    own = own if layout.boxes else torch.ones_like(own)  # With so few numbers, no other statistic judges the size.
    found: dict[Kind, Tensor] = {"number": (z / own.sqrt()[:, None]).T.contiguous()}
    if layout.boxes:
        size = layout.level @ z.square().T / (layout.level @ present.T).clamp_min(1)
        whole = torch.tensor([layout.whole(box) for box in layout.boxes])
        found["level"] = layout.level @ w.T
        found["size"] = torch.where(whole[:, None], size, size / own).clamp_min(1e-9).log()
    if layout.drifting:
        found["drift"] = layout.drift @ w.T
    return found


@final
class StrangeData(Diagnostic):
    """Which numbers of the data do not fit the other numbers?"""

    name, cause, needs = NAME, Cause.DATA, frozenset({Need.AROUND})

    def __call__(self, case: Case) -> Sequence[Finding]:
        return check_data(case.posterior, case.x, case.around)


_LEAST, _FEW_ROWS = 4, 3
STATISTICS = 5  # Number of statistics of each box; the number of copies is the last.


def repeats(x: Tensor, mask: Tensor | None, boxes: tuple[Box, ...], spec: Observable) -> Tensor:
    """Numbers of equal values in each box, for each row: (`STATISTICS` times boxes, rows), grouped by box.

    Args:
        x: Data (rows, *event), the observation as the last row.
        mask: True where a number is present, of x's shape; None where all are present.
        boxes: Parts of the observable, at least one.
        spec: The observable.
    """
    value, found = x.double() if mask is None else torch.where(mask, x.double(), torch.nan), []
    for box in boxes:
        part = value[:, *map(slice, box.start, box.stop)]
        order = [axis for axis, name in enumerate(spec.dims, 1) if name == "item" and part.shape[axis] > 1]
        part = part.flatten(1)
        most = _most_equal(_in_steps(part))
        run = torch.zeros_like(most) if order else _longest_run(part)
        ends = (torch.where(each < _FEW_ROWS, 0.0, each) for each in (_at_top(part), _at_top(-part), run))
        found += [torch.where(most < _LEAST, 0.0, most), *ends, _copies(part)]
    return torch.stack(found)


def _copies(value: Tensor) -> Tensor:
    """Number of values of each row if the counts of its different values have a common divisor above 1; otherwise 0."""
    found = torch.zeros(len(value), dtype=torch.float64)
    for k, row in enumerate(value):
        counts = row[row.isfinite()].unique(return_counts=True)[1]
        if len(counts) >= _LEAST and int(counts.min()) > 1 and math.gcd(*counts.tolist()) > 1:
            found[k] = counts.sum()
    return found


def _in_steps(value: Tensor) -> Tensor:
    """Data as numbers of steps from the value that the last row repeats most often.

    They are unchanged if the last row repeats no value.
    """
    seen, counts = value[-1][value[-1].isfinite()].unique(return_counts=True)
    if len(seen) < 2 or counts.max() == 1:
        return value
    k = int(counts.argmax())
    others = counts > 1
    others[k] = False
    away = seen - seen[k]
    if others.any():
        above, below = away[others & (away > 0)], -away[others & (away < 0)]
        step = max(float(side.min()) for side in (above, below) if len(side))
    else:
        step = float(away[away != 0].abs().min())
    return _rounded(value, seen[k], step)


def _rounded(value: Tensor, origin: Tensor, step: float) -> Tensor:
    """Numbers of steps from an origin; a value is unchanged where its number of steps is not finite."""
    found = ((value - origin) / step).round()
    return torch.where(value.isfinite() & ~found.isfinite(), value, found)


def _at_top(value: Tensor) -> Tensor:
    """Number of values equal to the largest value of each row, (rows,)."""
    seen, alone = _seen(value)
    if len(seen) > 1:
        value = _rounded(value, seen[-1], float(seen.diff().min() if alone else seen[-1] - seen[-2]))
    value = value.masked_fill(value.isnan(), -torch.inf)
    return ((value == value.amax(1, keepdim=True)) & value.isfinite()).sum(1).double()


def _longest_run(value: Tensor) -> Tensor:
    """Length of the longest run of equal values of each row, (rows,)."""
    seen, alone = _seen(value)
    if alone and len(seen) > 1:
        value = _rounded(value, value[-1].nanmedian(), float(seen.diff().min()))
    else:
        nearest = torch.bucketize(value.contiguous(), (seen[1:] + seen[:-1]) / 2).double()
        value = torch.where(value.isnan(), value, nearest)
    return _run_lengths(value).amax(1).double()


def _seen(value: Tensor) -> tuple[Tensor, bool]:
    """Different values of the last row, and whether at most one of them is repeated."""
    seen, counts = value[-1][value[-1].isfinite()].unique(return_counts=True)
    return seen, int((counts > 1).sum()) < 2


def _run_lengths(value: Tensor) -> Tensor:
    """For each value, the number of equal values in the run that it ends, (rows, numbers)."""
    same = torch.nn.functional.pad(value[:, 1:] == value[:, :-1], (1, 0))
    place = torch.arange(value.shape[1])
    return place - torch.where(same, 0, place).cummax(1).values + 1


def lanes(boxes: tuple[Box, ...], spec: Observable) -> tuple[Box, ...]:
    """Boxes with all of an observable at one index of one axis; the whole box where there is only one axis."""
    found, wanted = [], [] if len(spec.shape) == 1 else [1]
    for box in boxes:
        widths = [b - a for a, b in zip(box.start, box.stop, strict=True)]
        narrow = [width for width, size in zip(widths, spec.shape, strict=True) if width < size]
        if narrow == wanted:
            found.append(box)
    return tuple(found)


def _most_equal(value: Tensor) -> Tensor:
    """Length of the longest run of equal values in each sorted row, (rows,); a missing value equals none."""
    return _run_lengths(value.sort(1).values).amax(1).double()
