"""Records at their own length, where a simulator makes room for the longest and a mask `NAME_mask` says what is there.

A record of fewer values along the first axis is padded by zeros, and its mask made: True of the values that were given.
Axes of times or places, and those with coordinates, are left out: there it matters which values are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.core.simulator import Observable

_PLACES = ("time", "y", "x", "row", "column")


def masked(observables: Mapping[str, Observable]) -> dict[str, str]:
    """Observable -> its mask, of those that may be shorter than there is room for."""
    found = {name: f"{name}_mask" for name, spec in observables.items() if spec.shape and _free(spec)}
    return {n: mask for n, mask in found.items() if mask in observables and f"{n}_times" not in observables}


def _free(spec: Observable) -> bool:
    """Whether the first axis has no places of its own."""
    return not spec.dims or not (spec.dims[0] in _PLACES or spec.dims[0] in spec.coords)


def own_length(spec: Observable, shape: tuple[int, ...]) -> int | None:
    """How many values along the first axis a record of this shape has, where these are fewer than there is room for."""
    rest = tuple(shape[1:]) == spec.shape[1:]
    return shape[0] if rest and len(shape) == len(spec.shape) > 0 and 0 < shape[0] < spec.shape[0] else None


def shortened(observables: Mapping[str, Observable], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Observable]:
    """The observables as records of these shapes have them: without masks that are to be made.

    Args:
        observables: What the simulator produces.
        shapes: Of what was given, masks among them where there are some.
    """
    found = dict(observables)
    for name, mask in masked(observables).items():
        length = own_length(observables[name], shapes.get(name, ()))
        if length is not None and mask not in shapes:
            found[name] = replace(found[name], shape=(length, *found[name].shape[1:]))
            del found[mask]
    return found


def padded(observables: Mapping[str, Observable], x: Mapping[str, Any]) -> dict[str, Any]:
    """One observation with its records at full length, and their masks; all else as it is."""
    found = dict(x)
    for name, mask in masked(observables).items():
        value = found.get(name)
        if mask in found or not isinstance(value, Tensor | np.ndarray | list | tuple) or np.ma.is_masked(value):
            continue
        spec = observables[name]
        if (length := own_length(spec, np.shape(value))) is None:
            continue
        there = torch.arange(spec.shape[0]) < length
        whole = observables[mask].shape
        found[mask] = there.reshape(-1, *[1] * (len(whole) - 1)).expand(whole).clone()
        room = [(0, spec.shape[0] - length), *[(0, 0)] * (len(spec.shape) - 1)]
        if isinstance(value, Tensor):
            blank = value.new_zeros(spec.shape)
            blank[:length] = value
            found[name] = blank
        else:
            found[name] = np.pad(value if isinstance(value, np.ndarray) else np.asarray(value), room)
    return found
