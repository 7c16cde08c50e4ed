"""How often one value is repeated in a part of the data: a fault of an instrument makes it often.

| statistic | it sees |
|---|---|
| equal values, anywhere | a dead sensor, a filled gap |
| values equal to the largest, or to the least | saturation, a limit, counts that are cut off |
| equal values one after the other, but for items | a sensor that hangs |
| all values, if each is there twice, or each three times, ... | a table that was added to itself |

Data that were rounded, as nearly all that were measured are, repeat values by rounding alone. So a part of the data and
the simulations of it are counted in steps: from the value that the observation repeats most often to the nearest others
that it repeats, above and below, whichever is farther; to the nearest of all if it repeats no other. For the ends and
for runs a step is the least difference of two of its values if it repeats one value alone. If it repeats several, a
step at an end leads to the next value, and for runs simulated values are replaced by the nearest of the observation.
Fewer than four equal values are none, and fewer than three at an end or in a run, and fewer than four different ones
that are all there twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf.core import Observable
from sciinf.diagnostics.boxes import Box

_LEAST, _FEW = 4, 3
STATISTICS = 5  # of each box, the number of copies last


def repeats(x: Tensor, mask: Tensor | None, boxes: tuple[Box, ...], spec: Observable) -> Tensor:
    """The numbers of equal values in each box, of each row: (`STATISTICS` boxes, rows), those of a box together.

    Args:
        x: Data (rows, *event), the observation as the last row.
        mask: True where a number is present, of x's shape; None where all are.
        boxes: Parts of it, at least one.
        spec: The observable.
    """
    value, found = x.double() if mask is None else torch.where(mask, x.double(), torch.nan), []
    for box in boxes:
        part = value[:, *map(slice, box.start, box.stop)]
        order = [axis for axis, name in enumerate(spec.dims, 1) if name == "item" and part.shape[axis] > 1]
        part = part.flatten(1)
        most = _most_equal(_in_steps(part))
        run = torch.zeros_like(most) if order else _longest_run(part)
        ends = (torch.where(each < _FEW, 0.0, each) for each in (_at_top(part), _at_top(-part), run))
        found += [torch.where(most < _LEAST, 0.0, most), *ends, _copies(part)]
    return torch.stack(found)


def _copies(value: Tensor) -> Tensor:
    """How many values there are where each is there equally often, or a multiple of that, of each row; 0 elsewhere."""
    found = torch.zeros(len(value), dtype=torch.float64)
    for k, row in enumerate(value):
        counts = row[row.isfinite()].unique(return_counts=True)[1]
        if len(counts) >= _LEAST and int(counts.min()) > 1 and math.gcd(*counts.tolist()) > 1:
            found[k] = counts.sum()
    return found


def _in_steps(value: Tensor) -> Tensor:
    """Numbers of steps from the value that the last row repeats most often; as they are where it repeats none."""
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
    """Numbers of steps from an origin; as they are where these are no numbers."""
    found = ((value - origin) / step).round()
    return torch.where(value.isfinite() & ~found.isfinite(), value, found)


def _at_top(value: Tensor) -> Tensor:
    """How many values equal the largest of each row, (rows,)."""
    seen, alone = _seen(value)
    if len(seen) > 1:
        value = _rounded(value, seen[-1], float(seen.diff().min() if alone else seen[-1] - seen[-2]))
    value = value.masked_fill(value.isnan(), -torch.inf)
    return ((value == value.amax(1, keepdim=True)) & value.isfinite()).sum(1).double()


def _longest_run(value: Tensor) -> Tensor:
    """The largest number of equal values one after the other, of each row, (rows,)."""
    seen, alone = _seen(value)
    if alone and len(seen) > 1:
        value = _rounded(value, value[-1].nanmedian(), float(seen.diff().min()))
    else:
        nearest = torch.bucketize(value.contiguous(), (seen[1:] + seen[:-1]) / 2).double()
        value = torch.where(value.isnan(), value, nearest)
    return _run_lengths(value).amax(1).double()


def _seen(value: Tensor) -> tuple[Tensor, bool]:
    """The different values of the last row, and whether no more than one of them is repeated."""
    seen, counts = value[-1][value[-1].isfinite()].unique(return_counts=True)
    return seen, int((counts > 1).sum()) < 2


def _run_lengths(value: Tensor) -> Tensor:
    """How many equal values, one after the other, each value is the last of, (rows, numbers)."""
    same = torch.nn.functional.pad(value[:, 1:] == value[:, :-1], (1, 0))
    place = torch.arange(value.shape[1])
    return place - torch.where(same, 0, place).cummax(1).values + 1


def lanes(boxes: tuple[Box, ...], spec: Observable) -> tuple[Box, ...]:
    """Those that are all of an observable at one index of one axis; the whole where there is one axis alone."""
    found, wanted = [], [] if len(spec.shape) == 1 else [1]
    for box in boxes:
        widths = [b - a for a, b in zip(box.start, box.stop, strict=True)]
        narrow = [width for width, size in zip(widths, spec.shape, strict=True) if width < size]
        if narrow == wanted:
            found.append(box)
    return tuple(found)


def _most_equal(value: Tensor) -> Tensor:
    """The length of the longest run of equal values of each sorted row, (rows,); a missing one equals none."""
    return _run_lengths(value.sort(1).values).amax(1).double()
