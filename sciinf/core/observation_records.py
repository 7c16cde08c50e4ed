"""Records at their own length, where a simulator makes room for the longest and a mask `NAME_mask` says what is there.

A record of fewer values along a first axis called "item" or "event" is padded by zeros, and its mask made: True of the
values that were given. Along other axes it matters which values are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.core.observable import Observable

_ALIKE = ("item", "event")


def masked(observables: Mapping[str, Observable]) -> dict[str, str]:
    """Observable -> its mask, of those that may be shorter than there is room for."""
    found = {n: f"{n}_mask" for n, spec in observables.items() if spec.dims[:1] and spec.dims[0] in _ALIKE}
    return {
        name: mask
        for name, mask in found.items()
        if mask in observables and observables[mask].dtype == "bool" and f"{name}_times" not in observables
    }


def own_length(spec: Observable, shape: tuple[int, ...]) -> int | None:
    """How many values along the first axis a record of this shape has, where these are fewer than there is room for."""
    rest = tuple(shape[1:]) == spec.shape[1:]
    return shape[0] if rest and len(shape) == len(spec.shape) > 0 and shape[0] < spec.shape[0] else None


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
    """One observation with its records at full length, and their masks; all else as it is.

    Args:
        observables: What the simulator produces.
        x: Tensors, and arrays or lists without units.

    Raises:
        ValueError: If records along one axis have several lengths.
    """
    found, lengths = dict(x), dict[tuple[str, int], tuple[str, int]]()
    for name, mask in masked(observables).items():
        if name not in found or mask in found:
            continue
        spec, value = observables[name], found[name]
        value = value if isinstance(value, Tensor) else np.asarray(value)
        value = value[0] if value.ndim == len(spec.shape) + 1 and len(value) == 1 else value
        if (length := own_length(spec, tuple(value.shape))) is None:
            continue
        first, known = lengths.setdefault((spec.dims[0], spec.shape[0]), (name, length))
        if length != known:
            raise ValueError(
                f"{first!r} has {known} values along {spec.dims[0]!r} and {name!r} has {length}: a record has as many "
                f"of each; give the same number, or {mask!r} beside {name!r} at its full length of {spec.shape[0]}"
            )
        whole = observables[mask].shape
        there = torch.arange(spec.shape[0]) < length
        found[mask] = there.reshape(-1, *[1] * (len(whole) - 1)).expand(whole).clone()
        if isinstance(value, Tensor):
            found[name] = torch.cat([value, value.new_zeros(spec.shape[0] - length, *spec.shape[1:])])
        else:
            found[name] = np.concatenate([value, np.zeros((spec.shape[0] - length, *spec.shape[1:]), value.dtype)])
    return found
