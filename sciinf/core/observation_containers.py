"""Arrays of other libraries as observations, with their masks, units, axes and coordinates.

Masked arrays are those of numpy and astropy. Axes and coordinates are those of xarray, which has its unit in
`attrs["units"]`. The index of a pandas object is its first axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sciinf.core.observable import Observable
from sciinf.core.observation_axes import few_words, may_be_ranks, same_places, values_along


def unit_of(value: Any) -> Any:
    """The unit of an array; None if the array has no unit."""
    unit, attributes = getattr(value, "unit", None), getattr(value, "attrs", None)
    return attributes.get("units") if unit is None and isinstance(attributes, dict) else unit


def aligned(value: Any, spec: Observable, name: str) -> Any:
    """An array with its axes in the order of the axes of an observable.

    Args:
        value: The array, of any library.
        spec: The observable.
        name: Name of the observable, for messages.

    Raises:
        ValueError: If values are masked, or if the coordinates of the array are not those of the observable.
    """
    mask = getattr(value, "mask", False)
    if not callable(mask) and (missing := int(np.count_nonzero(mask))):
        raise ValueError(
            f"observable {name!r} has {missing} masked values, which are not data; remove them, or give the "
            f"simulator a mask observable {name + '_mask'!r} that marks missing values"
        )
    index = getattr(value, "index", None)
    if spec.dims and not getattr(value, "dims", ()) and callable(getattr(index, "to_numpy", None)):
        _check_index(index, spec, name)
    dims = getattr(value, "dims", ())
    if not isinstance(dims, tuple) or not dims or sorted(map(str, dims)) != sorted(spec.dims):
        return value
    value = value.transpose(*spec.dims)
    for axis in spec.coords.keys() & value.coords.keys():
        _check_places(value.coords[axis], axis, spec, name)
    return value


def _check_index(index: Any, spec: Observable, name: str) -> None:
    """Refuse an index of pandas that contradicts the coordinates of the first axis of an observable.

    An index that is named like the axis must have the same coordinates. Any other index must not have the
    same coordinates in another order.

    Raises:
        ValueError: If the index contradicts the coordinates.
    """
    axis = spec.dims[0]
    ours = list(spec.coords.get(axis, ()))
    values = index.to_numpy()
    if len(values) != len(ours):
        return
    if isinstance(ours[0], str):
        comparable = all(isinstance(value, str) for value in values)
    else:
        comparable = values.dtype.kind in "iuf" and not may_be_ranks(ours)
    if index.name == axis or (comparable and same_places(sorted(values.tolist()), sorted(ours))):  # type: ignore[type-var]
        _check_places(index, axis, spec, name)


def _check_places(stands: Any, axis: str, spec: Observable, name: str) -> None:
    """Refuse data whose coordinates along an axis are not those of the observable.

    Raises:
        ValueError: If the coordinates differ.
    """
    ours, values = list(spec.coords[axis]), stands.to_numpy()
    unit, text = spec.coord_units.get(axis, ""), isinstance(ours[0], str)
    values = values.astype(str) if text and values.dtype.kind == "O" else values
    theirs = values_along(axis, values, unit_of(stands) or "", unit, text=text)
    if theirs is not None and (len(theirs) != len(ours) or not same_places(theirs, ours)):
        raise ValueError(
            f"observable {name!r} stands at other values of {axis!r} than the simulator's: it has "
            f"{few_words(theirs)}, expected {few_words(ours)}. Select and sort the data so that they agree"
        )
