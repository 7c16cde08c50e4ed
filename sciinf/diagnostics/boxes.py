"""Parts of the data in which a fault may lie (boxes), and the directions of such faults.

There are three kinds of boxes. One is the whole of an observable. Another is each single index of each axis, such as
a sensor, a time or a row of an image. The third kind is windows. Along an ordered axis, a window has the axis's
length, a half, a quarter or an eighth of it, and begins half a window after the previous one. Windows are combined
with each index, or with all indices, of the axes without order: "item", "channel", axes without a name, and short
axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from sciinf.core import Observable

_SCALES = 3  # How often an ordered axis is halved.
_LEAST = 4  # Least number of entries in a box, and along the axis of a drift.
_EACH = 64  # An axis with more indices than this has no box for each index.
_BOXES = 400
_SHORT = 8  # An axis with fewer indices is treated as one without order.
_UNORDERED = ("item", "channel", "")


@dataclass(frozen=True)
class Box:
    """A part of one observable: the first index, and one beyond the last index, along each axis."""

    observable: str
    start: tuple[int, ...]
    stop: tuple[int, ...]

    def fill(self, value: Tensor) -> Tensor:
        """Flat tensor with the entries of `value` inside the box and 0 outside; `value` has the observable's shape."""
        found, where = torch.zeros_like(value), tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        found[where] = value[where]
        return found.reshape(-1)


@dataclass(frozen=True)
class Layout:
    """Boxes of the data, and the directions along which faults are looked for, over the numbers that vary.

    Args:
        specs: Observables, whose numbers follow one another.
        kept: Indices of the numbers that vary, among all numbers, (J,).
        boxes: The B boxes.
        level: For each box, a constant direction: 1 inside the box, 0 outside, (B, J).
        drift: Directions that are linear along an axis inside a box, (R, J).
        drifting: For each of the R drifts, the index of its box.
    """

    specs: Mapping[str, Observable]
    kept: Tensor
    boxes: tuple[Box, ...]
    level: Tensor
    drift: Tensor
    drifting: tuple[int, ...]

    def whole(self, box: Box) -> bool:
        """Whether the box holds all of its observable."""
        return box.stop == self.specs[box.observable].shape and not any(box.start)

    def number(self, k: int) -> Box:
        """Box that holds only the k-th of the numbers that vary."""
        place = int(self.kept[k])
        for name, spec in self.specs.items():
            size = math.prod(spec.shape)
            if place < size:
                start = (
                    tuple(int(i) for i in torch.unravel_index(torch.tensor(place), spec.shape)) if spec.shape else ()
                )
                return Box(name, start, tuple(i + 1 for i in start))
            place -= size
        raise IndexError(k)


def box_words(box: Box, spec: Observable) -> str:
    """A box in words: by its coordinates where the observable has some, else by indices, which count from 0."""
    names = spec.dims or ("",) * len(spec.shape)
    parts = []
    for a, b, size, name in zip(box.start, box.stop, spec.shape, names, strict=True):
        if b - a < size or size == 1:
            first, last = (spec.at(name, i) or str(i) for i in (a, b - 1))
            parts.append(f"{name or 'index'} {first}" + (f" to {last}" if b > a + 1 else ""))
    return f"{box.observable!r}" + (f" at {', '.join(parts)}" if parts else "")


def layout_of(specs: Mapping[str, Observable], kept: Tensor) -> Layout:
    """Build the boxes and the fault directions for the numbers that vary."""
    boxes, level, drift, drifting, first = [], [], [], [], 0
    total = sum(math.prod(spec.shape) for spec in specs.values())

    def padded(value: Tensor) -> Tensor:
        return torch.nn.functional.pad(value, (first, total - first - len(value)))[kept]

    for name, spec in specs.items():
        for box in boxes_of(name, spec):
            level.append(padded(box.fill(torch.ones(spec.shape, dtype=torch.float64))))
            for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True)):
                if not _without_order(spec.shape[axis], spec.dims[axis] if spec.dims else "") and b - a >= _LEAST:
                    t = torch.arange(spec.shape[axis], dtype=torch.float64) - (a + b - 1) / 2
                    shape = [-1 if other == axis else 1 for other in range(len(spec.shape))]
                    drift.append(padded(box.fill(t.reshape(shape).expand(spec.shape))))
                    drifting.append(len(boxes))
            boxes.append(box)
        first += math.prod(spec.shape)
    both = [torch.stack(rows) if rows else torch.zeros(0, len(kept), dtype=torch.float64) for rows in (level, drift)]
    return Layout(specs, kept, tuple(boxes), both[0], both[1], tuple(drifting))


def boxes_of(name: str, spec: Observable) -> list[Box]:
    """Boxes of an observable: the whole, its single indices and its windows, without boxes of few numbers."""
    names = spec.dims or ("",) * len(spec.shape)
    whole = [(0, n) for n in spec.shape]
    slices = [
        [*whole[:axis], (i, i + 1), *whole[axis + 1 :]]
        for axis, n in enumerate(spec.shape)
        for i in range(n if 1 < n <= _EACH else 0)
    ]
    found = dict.fromkeys(_boxes(name, [whole, *slices]))
    for scale in range(_SCALES + 1):
        parts = [_parts(n, axis, scale) for n, axis in zip(spec.shape, names, strict=True)]
        new = _boxes(name, product(*parts))
        if len(found) + len(new) > _BOXES:
            break
        found |= dict.fromkeys(new)
    return list(found)


def _boxes(name: str, parts: Iterable[Sequence[tuple[int, int]]]) -> list[Box]:
    """Boxes with at least `_LEAST` numbers."""
    enough = [part for part in parts if math.prod(b - a for a, b in part) >= _LEAST]
    return [Box(name, tuple(a for a, _ in part), tuple(b for _, b in part)) for part in enough]


def _without_order(size: int, axis: str) -> bool:
    return axis in _UNORDERED or size < _SHORT


def _parts(size: int, axis: str, scale: int) -> list[tuple[int, int]]:
    """Parts of an axis, each as its first index and one beyond its last."""
    if _without_order(size, axis):
        return [(0, size), *((i, i + 1) for i in range(size if 1 < size <= _EACH else 0))]
    width = math.ceil(size / 2**scale)
    return [(a, a + width) for a in range(0, size - width + 1, max(1, width // 2))]
