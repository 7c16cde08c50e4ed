"""How often one value is repeated in a part of the data: a dead sensor, a stuck clock or a filled gap makes it large.

Values that differ by less than the data tell apart count as equal: the step is the least difference between two
numbers of the observation. Data that were rounded, as nearly all that were measured are, repeat values by rounding, and
so do simulations that are rounded to the same step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinf.core import Observable
from sciinf.trust.boxes import Box


def repeats(x: Tensor, mask: Tensor | None, boxes: tuple[Box, ...]) -> Tensor:
    """The largest number of equal values in each box, of each row: (boxes, rows).

    Args:
        x: Data (rows, *event), the observation as the last row.
        mask: True where a number is present, of x's shape; None where all are.
        boxes: Parts of it, at least one.
    """
    value = x.double() if mask is None else torch.where(mask, x.double(), torch.nan)
    seen = value[-1][value[-1].isfinite()].unique()
    steps = seen.diff()
    if len(steps):
        value = ((value - seen[0]) / steps.min()).round()
    parts = [value[:, *map(slice, box.start, box.stop)].flatten(1) for box in boxes]
    return torch.stack([_most_equal(part) for part in parts])


def lanes(boxes: tuple[Box, ...], spec: Observable) -> tuple[Box, ...]:
    """Those that are the whole of an observable, or all of it at one index of one axis."""
    found = []
    for box in boxes:
        widths = [b - a for a, b in zip(box.start, box.stop, strict=True)]
        narrow = [width for width, size in zip(widths, spec.shape, strict=True) if width < size]
        if narrow in ([], [1]):
            found.append(box)
    return tuple(found)


def _most_equal(value: Tensor) -> Tensor:
    """The length of the longest run of equal values of each sorted row, (rows,); a missing one equals none."""
    ordered = value.sort(1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    place = torch.arange(1, same.shape[1] + 1)
    begun = torch.where(same, 0, place).cummax(1).values
    return (place - begun).amax(1).double() + 1
