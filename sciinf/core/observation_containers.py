"""Arrays of other libraries as observations: the masks, units, axes and coordinates that they carry.

Masked arrays are those of numpy and astropy. Axes and coordinates are those of xarray; its unit is `attrs["units"]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sciinf.core.simulator import Observable


def unit_of(value: Any) -> Any:
    """The unit that an array carries; None where it carries none."""
    unit, attributes = getattr(value, "unit", None), getattr(value, "attrs", None)
    return attributes.get("units") if unit is None and isinstance(attributes, dict) else unit


def aligned(value: Any, spec: Observable, name: str) -> Any:
    """An array with its axes in the order of the observable's.

    Args:
        value: The array, of any library.
        spec: The observable.
        name: What it is called, for messages.

    Raises:
        ValueError: If values are masked, or stand at other coordinates than those of the observable.
    """
    mask = getattr(value, "mask", False)
    if not callable(mask) and (missing := int(np.count_nonzero(mask))) and mask is not None:
        raise ValueError(
            f"observable {name!r} has {missing} masked values, which are not data; remove them, or give the simulator "
            f"a mask observable {name + '_mask'!r} that marks missing values"
        )
    dims = getattr(value, "dims", ())
    if not isinstance(dims, tuple) or not dims or sorted(map(str, dims)) != sorted(spec.dims):
        return value
    value = value.transpose(*spec.dims)
    for axis, ours in spec.coords.items():
        theirs = np.asarray(value.coords[axis]) if axis in value.coords else np.asarray(ours)
        if theirs.dtype.kind in "biuf" and not isinstance(ours[0], str):
            same = np.allclose(_in_unit(value.coords.get(axis), theirs, spec.coord_units.get(axis, "")), ours)
        else:
            same = theirs.dtype.kind not in "OUS" or [*map(str, theirs)] == [*map(str, ours)]
        if not same:
            raise ValueError(
                f"observable {name!r} stands at other values of {axis!r} than the simulator's, which begin "
                f"{', '.join(map(str, ours[:3]))}; the data's begin {', '.join(map(str, theirs[:3].tolist()))}. Select "
                "and sort the data so that they agree"
            )
    return value


def _in_unit(coordinate: Any, values: np.ndarray, unit: str) -> np.ndarray:
    """Coordinates in a unit, where both units are known."""
    own = unit_of(coordinate)
    if not own or not unit:
        return values
    from astropy import units

    try:
        return np.asarray(units.Quantity(values, own).to_value(units.Unit(unit)))
    except (units.UnitConversionError, ValueError, TypeError):
        return values
