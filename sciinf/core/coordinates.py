"""Coordinates along the axes of an observable: years, wavelengths, names of species."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from sciinf.core.checks import check_unit


def checked_coords(
    shape: tuple[int, ...], dims: tuple[str, ...], coords: Mapping[str, Any], units: Mapping[str, str]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, str]]:
    """The coordinates as plain numbers or text, and their units as text; dates become text.

    Args:
        shape: Event shape of the observable.
        dims: One name per axis of the observable.
        coords: Name of an axis -> one number, text or date per index; axes may be left out.
        units: Name of an axis -> unit of its coordinates, if they are numbers.

    Raises:
        TypeError: If the coordinates of an axis are neither all numbers nor all text or dates.
        ValueError: If an axis is unknown, coordinates have a wrong length or several axes, a number is not
            finite, or a unit is unknown.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for axis, given in coords.items():
        if axis not in dims:
            raise ValueError(f"coords has the axis {axis!r}, but dims are {dims}; name each axis in dims")
        values = _plain(axis, given)
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
            raise ValueError(f"coord_units has a unit for {axis!r}; give coords of this axis as numbers")
        check_unit(unit, f"the axis {axis!r}")
    return found, {axis: str(unit) for axis, unit in units.items()}


def _plain(axis: str, given: Any) -> tuple[Any, ...]:
    """Coordinates as numbers and text of Python; dates become text in the form of ISO 8601.

    Raises:
        TypeError: If the coordinates are a single string.
        ValueError: If the coordinates have several axes, or if a date is missing.
    """
    if isinstance(given, str):
        raise TypeError(f"coords along {axis!r} must be a list of numbers, text or dates, got the text {given!r}")
    if getattr(given, "ndim", 1) != 1:
        raise ValueError(
            f"coords along {axis!r} have shape {tuple(given.shape)}; give a list with one number, text or "
            "date per index"
        )
    if getattr(getattr(given, "dtype", None), "kind", "") == "M":
        days = np.asarray(given)
        if np.isnat(days).any():
            raise ValueError(f"coords along {axis!r} have a missing date (NaT); give a date for each index")
        return tuple(np.datetime_as_string(days, unit="auto").tolist())
    values = (value.item() if isinstance(value, np.generic | Tensor) else value for value in given)
    return tuple(value.isoformat() if isinstance(value, date) else value for value in values)


def coordinate_words(values: Sequence[Any], unit: str, index: int) -> str:
    """The coordinate at an index with its unit, as text: "1903 yr" or "hare"; "" without coordinates.

    A number has as few digits as distinguish it from its neighbours, but at least four.
    """
    if not len(values):
        return ""
    value = values[index]
    if isinstance(value, str):
        return value
    near = set(values[max(0, index - 1) : index + 2])
    digits = next((d for d in range(4, 17) if len({f"{other:.{d}g}" for other in near}) == len(near)), 17)
    return f"{value:.{digits}g}" + (f" {unit}" if unit else "")
