"""How often one value is repeated in a part of the data: a dead sensor, a stuck clock or a filled gap makes it large.

Data that were rounded, as nearly all that were measured are, repeat values by rounding alone. So a part of the data and
the simulations of it are counted in steps: from the value that the observation repeats most often to the nearest others
that it repeats, above and below, whichever is farther; to the nearest of all if it repeats no other. Fewer than four
equal values are none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinf.core import Observable
from sciinf.trust.boxes import Box

_LEAST = 4


def repeats(x: Tensor, mask: Tensor | None, boxes: tuple[Box, ...]) -> Tensor:
    """The largest number of equal values in each box, of each row, 0 below four: (boxes, rows).

    Args:
        x: Data (rows, *event), the observation as the last row.
        mask: True where a number is present, of x's shape; None where all are.
        boxes: Parts of it, at least one.
    """
    value = x.double() if mask is None else torch.where(mask, x.double(), torch.nan)
    parts = [value[:, *map(slice, box.start, box.stop)].flatten(1) for box in boxes]
    found = torch.stack([_most_equal(_in_steps(part)) for part in parts])
    return torch.where(found < _LEAST, 0.0, found)


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
    found = ((value - seen[k]) / step).round()
    return torch.where(value.isfinite() & ~found.isfinite(), value, found)


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
    ordered = value.sort(1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    place = torch.arange(1, same.shape[1] + 1)
    begun = torch.where(same, 0, place).cummax(1).values
    return (place - begun).amax(1).double() + 1
