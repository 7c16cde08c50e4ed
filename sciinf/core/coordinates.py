"""What stands along the axes of an observable: years, wavelengths, names of species."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from sciinf.core.prior import check_unit


def checked_coords(
    shape: tuple[int, ...], dims: tuple[str, ...], coords: Mapping[str, Any], units: Mapping[str, str]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, str]]:
    """Coordinates as plain numbers or text, and their units as text; empty where none are given.

    Args:
        shape: Of the observable.
        dims: One name per axis of it.
        coords: Name of an axis -> one number or text for each index.
        units: Name of an axis -> unit of its numbers.

    Raises:
        TypeError: If coordinates are neither all numbers nor all text.
        ValueError: If an axis is unknown, has another length, a number is not finite or a unit is unknown.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for axis, given in coords.items():
        if axis not in dims:
            raise ValueError(f"coords has the axis {axis!r}, and dims are {dims}; name each axis in dims")
        values = tuple(value.item() if callable(getattr(value, "item", None)) else value for value in given)
        if len(values) != shape[dims.index(axis)]:
            raise ValueError(f"coords has {len(values)} values along {axis!r}, expected {shape[dims.index(axis)]}")
        numbers = [isinstance(value, Real) and not isinstance(value, bool) for value in values]
        if not all(numbers) and not all(isinstance(value, str) for value in values):
            raise TypeError(f"coords along {axis!r} must be all numbers or all text, got {values!r}")
        if any(numbers) and not all(map(math.isfinite, values)):
            raise ValueError(f"coords along {axis!r} must be finite, got {values!r}")
        found[axis] = values
    for axis, unit in units.items():
        if axis not in found or isinstance(found[axis][0], str):
            raise ValueError(f"coord_units has a unit for {axis!r}; give coords of that axis as numbers")
        check_unit(unit, f"the axis {axis!r}")
    return found, {axis: str(unit) for axis, unit in units.items()}


def coordinate_words(values: Sequence[Any], unit: str, index: int) -> str:
    """The coordinate at an index with its unit, "1903 yr" or "hare"; "" without coordinates."""
    if not len(values):
        return ""
    value = values[index]
    return value if isinstance(value, str) else f"{value:.10g}" + (f" {unit}" if unit else "")
