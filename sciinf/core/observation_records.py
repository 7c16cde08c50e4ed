"""Padding of observed records that are shorter than the simulator's arrays, with masks `NAME_mask`.

The simulator's arrays have the length of the longest record. A mask is True where a record has a value. A
record with fewer values along a first axis called "item" or "event" is padded with zeros, and its mask is
made here. Other axes are not padded, because there the positions of the missing values matter.
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
    """Observable name -> name of its mask, for observables whose records may be shorter."""
    found = {n: f"{n}_mask" for n, spec in observables.items() if spec.dims[:1] and spec.dims[0] in _ALIKE}
    return {
        name: mask
        for name, mask in found.items()
        if mask in observables and observables[mask].dtype == "bool" and f"{name}_times" not in observables
    }


def own_length(spec: Observable, shape: tuple[int, ...]) -> int | None:
    """The length of a record along the first axis; None unless only this axis is shorter than specified.

    Args:
        spec: Specification of the observable.
        shape: Shape of the record.
    """
    rest = tuple(shape[1:]) == spec.shape[1:]
    return shape[0] if rest and len(shape) == len(spec.shape) > 0 and shape[0] < spec.shape[0] else None


def shortened(observables: Mapping[str, Observable], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Observable]:
    """The observables with the lengths of given records, without the masks that `padded` makes.

    Args:
        observables: What the simulator produces: observable name -> specification.
        shapes: Observable name -> shape of the given array, masks included if they are given.
    """
    found = dict(observables)
    for name, mask in masked(observables).items():
        length = own_length(observables[name], shapes.get(name, ()))
        if length is not None and mask not in shapes:
            found[name] = replace(found[name], shape=(length, *found[name].shape[1:]))
            del found[mask]
    return found


def padded(observables: Mapping[str, Observable], x: Mapping[str, Any]) -> dict[str, Any]:
    """One observation with its records padded to full length, and their masks; other entries are unchanged.

    Args:
        observables: What the simulator produces: observable name -> specification.
        x: Observable name -> tensor, array or list, without units.

    Raises:
        ValueError: If records along the same axis have different lengths.
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
                f"{first!r} has {known} values along {spec.dims[0]!r}, but {name!r} has {length}; give the "
                f"same number, or give {name!r} at its full length of {spec.shape[0]} together with {mask!r}"
            )
        whole = observables[mask].shape
        there = torch.arange(spec.shape[0]) < length
        found[mask] = there.reshape(-1, *[1] * (len(whole) - 1)).expand(whole).clone()
        if isinstance(value, Tensor):
            found[name] = torch.cat([value, value.new_zeros(spec.shape[0] - length, *spec.shape[1:])])
        else:
            found[name] = np.concatenate([value, np.zeros((spec.shape[0] - length, *spec.shape[1:]), value.dtype)])
    return found
