r"""Faults that are planted in simulations: what may go wrong with a measurement of any kind, in any place and size.

Of every simulation one observable is damaged. A part of it is drawn: along each axis one index, a window from one
random index to another, or the whole, each as often. With s the sd that the other numbers leave a number, and e a size,

| kind | what becomes of a number y of the part |
|---|---|
| number | y + e s, of one number anywhere |
| level | y + e s |
| drift | y + e s t, t from -1 to 1 along an axis |
| size | y + e s times a normal number |
| repeated | the number at the part's first index of an axis |

These are the kinds that `trust.localise` names. e has a random sign, and its size is log-uniform from what the best
test of a part of k numbers could just see, min(1, 3 / sqrt(k)), to 30. What is rounded or counted is rounded after, and
what no longer differs from the simulation is no fault and left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sciinf.core import X
from sciinf.trust.scores.score import Numbers

Fault = Literal["number", "level", "drift", "size", "repeated"]
FAULTS: tuple[Fault, ...] = ("number", "level", "drift", "size", "repeated")
_SEEN, _LARGEST = 3.0, 30.0
_COUNTS = 1e9


def planted(numbers: Numbers, x: X, sd: Tensor, kinds: Sequence[Fault], generator: torch.Generator) -> X:
    """Simulations with a fault each, those that a fault has not changed left out.

    Args:
        numbers: How data are standardised.
        x: Simulations, name -> (n, *event).
        sd: What the other numbers leave of each, in the units of `numbers`, (n, J); 0 where it never changes.
        kinds: Of fault, each as often.
        generator: Source of randomness.
    """
    fine = {name: value.double() if value.is_floating_point() else value for name, value in x.items()}
    y = numbers.standard(fine, dtype=torch.float64)  # which gives back the very numbers, so that equal ones stay so
    unit, first = sd * numbers.scale[1], 0
    names, count = list(y), len(sd)
    which = torch.randint(len(names), (count,), generator=generator)
    changed, found = torch.zeros(count, dtype=torch.bool), dict(x)
    for k, name in enumerate(names):
        size = y[name][0].numel()
        rows = (which == k).nonzero()[:, 0]
        if len(rows):
            noise = unit[rows, first : first + size].reshape(y[name][rows].shape)
            there = (numbers.present(x, name)[rows] > 0) & (noise > 0)
            spoilt = torch.where(there, _spoilt(y[name][rows], noise, kinds, generator), y[name][rows])
            new = _as_measured(numbers, name, x[name][rows], y[name][rows], spoilt)
            found[name] = found[name].clone()
            found[name][rows] = new
            changed[rows] = (new != x[name][rows]).flatten(1).any(1)
        first += size
    return {name: value[changed] for name, value in found.items()}


def _as_measured(numbers: Numbers, name: str, old: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Standardised numbers as the simulator makes them: rounded, counted, or zero below all that was seen."""
    standard = numbers.standard
    value = standard.inverse({name: new})[name]
    if standard.specs[name].scale == "log":
        value = torch.where(value <= 1.001 * float(standard.get_buffer(f"{name}_floor")), 0.0, value)
    seen = old[old.isfinite()]
    if old.dtype != torch.bool and bool((seen == seen.round()).all()):  # whole numbers, whatever their dtype
        value = value.round().clamp_min(0.0 if bool((seen >= 0).all()) else -math.inf)
    if old.dtype == torch.bool:
        made = value > 0.5
    elif old.is_floating_point():
        made = value.to(old.dtype)
    else:
        made = value.clamp(-_COUNTS, _COUNTS).round().to(old.dtype)
    return torch.where(new == y, old, made)


def _spoilt(y: Tensor, noise: Tensor, kinds: Sequence[Fault], generator: torch.Generator) -> Tensor:
    """Numbers (n, *event) with a fault each."""
    count, shape = len(y), y.shape[1:]
    inside = _parts(count, shape, generator)
    which = torch.randint(len(kinds), (count,), generator=generator)
    axis = torch.randint(max(1, len(shape)), (count,), generator=generator)
    one = torch.nn.functional.one_hot(
        torch.randint(max(1, math.prod(shape)), (count,), generator=generator), max(1, math.prod(shape))
    ).bool()
    single = torch.tensor([kind == "number" for kind in kinds])[which]
    inside = torch.where(_wide(single, y), one.reshape(y.shape), inside)
    least = (_SEEN / inside.reshape(count, -1).sum(1).sqrt()).clamp_max(1.0)
    size = least * (_LARGEST / least) ** torch.rand(count, generator=generator)
    sign = torch.randint(2, (count,), generator=generator) * 2 - 1
    shift = _wide((size * sign).double(), y) * noise
    white = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    found = y.clone()
    for k, kind in enumerate(kinds):
        rows = (which == k).nonzero()[:, 0]
        if kind in ("drift", "repeated"):
            for a in range(len(shape)):
                of = rows[axis[rows] == a]
                found[of] = _along(kind, y[of], shift[of], inside[of], a + 1)
        else:
            found[rows] = y[rows] + shift[rows] * (white[rows] if kind == "size" else 1.0)
    return torch.where(inside, found, y)


def _along(kind: Fault, y: Tensor, shift: Tensor, inside: Tensor, axis: int) -> Tensor:
    """A drift along an axis, or the first number of the part again and again."""
    shape = [-1 if a == axis else 1 for a in range(y.ndim)]
    place = torch.arange(y.shape[axis]).reshape(shape)
    first = torch.where(inside, place, y.shape[axis]).amin(axis, keepdim=True).clamp_max(y.shape[axis] - 1)
    if kind == "repeated":
        return y.gather(axis, first.expand_as(y))
    last = torch.where(inside, place, -1).amax(axis, keepdim=True)
    return y + shift * (2 * (place - first) / (last - first).clamp_min(1) - 1)


def _parts(count: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Whether a number is in the part, (count, *shape)."""
    inside = torch.ones(count, *shape, dtype=torch.bool)
    for axis, n in enumerate(shape):
        kind = torch.randint(3, (count, 1), generator=generator)
        ends = torch.randint(n, (count, 2), generator=generator)
        low = torch.where(kind == 0, 0, torch.where(kind == 1, ends[:, :1], ends.amin(1, keepdim=True)))
        high = torch.where(kind == 0, n - 1, torch.where(kind == 1, ends[:, :1], ends.amax(1, keepdim=True)))
        place = torch.arange(n)
        inside &= ((place >= low) & (place <= high)).reshape(count, *[n if a == axis else 1 for a in range(len(shape))])
    return inside


def _wide(value: Tensor, y: Tensor) -> Tensor:
    """One value for each row, over its numbers."""
    return value.reshape(-1, *[1] * (y.ndim - 1))
