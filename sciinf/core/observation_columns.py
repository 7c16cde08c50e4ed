"""Descriptions of the named arrays in a file, made before any values are read.

A file may be damaged or malicious: a file of two kilobytes may claim to hold gigabytes. A reader therefore
lists the names of all arrays in a file, and the shape, dtype and unit of the wanted ones. Sizes can be
checked at this point. Values are read only afterwards, by `Column.read`.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SoughtColumns:
    """The arrays to look for in a file, by name and size.

    Args:
        pattern: A regular expression for the names of wanted arrays.
        numbers: The largest allowed count of numbers.
        alone: The name for an array without a name, if exactly one array is wanted. "" if several arrays are
            wanted; an array without a name then takes the name of its file.
    """

    pattern: str
    numbers: int
    alone: str = ""

    def __call__(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None

    def unnamed(self, path: Path) -> str:
        """The name for the array of a file that holds a single array without a name."""
        return self.alone or path.name.partition(".")[0]


@dataclass(frozen=True)
class Column:
    """The description of a named array in a file; the values are read on demand.

    Args:
        shape: The shape that the file states.
        dtype: The dtype of the values.
        unit: The unit of the values, "" if the file states none.
        read: A function that reads and returns the values.
        dims: The names of the axes; empty if the file has no names.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    unit: str
    read: Callable[[], np.ndarray]
    dims: tuple[str, ...] = ()

    def along(self, dims: tuple[str, ...]) -> Column:
        """The column with its axes in the order of `dims`; unchanged if it has other names of axes."""
        if self.dims == dims or sorted(self.dims) != sorted(dims):
            return self
        order = [self.dims.index(axis) for axis in dims]
        shape = tuple(self.shape[place] for place in order)
        return Column(shape, self.dtype, self.unit, lambda: self.read().transpose(order), dims)


@dataclass(frozen=True)
class Contents:
    """The contents of a file: the names of all arrays, and descriptions of the wanted ones."""

    names: tuple[str, ...]
    columns: Mapping[str, Column]


def column_of(values: np.ndarray, unit: str = "") -> Column:
    """The column of an array whose values are already in memory."""
    return Column(values.shape, values.dtype, unit.strip(), lambda: values)


def plain(column: Any) -> np.ndarray:
    """The values of a column of an astropy table as a plain array.

    Missing numbers become NaN. A text column that holds only "True" and "False" becomes booleans.
    """
    values: Any = np.ma.asarray(getattr(column, "value", column))
    if (mask := getattr(column, "mask", None)) is not None:
        values = np.ma.array(np.asarray(getattr(column, "unmasked", values)), mask=mask)
    if np.ma.is_masked(values) and values.dtype.kind in "biuf":
        values = values.astype(float).filled(np.nan)
    elif values.dtype.kind == "U" and set(values.ravel().tolist()) <= {"True", "False"}:
        values = values == "True"
    return np.asarray(values)


def parsed_unit(unit: Any) -> Any:
    """An astropy unit from a name or a unit, including imperial units such as miles and pounds.

    Raises:
        ValueError: If astropy has no unit of that name.
    """
    from astropy import units
    from astropy.units import imperial

    try:
        return units.Unit(unit)
    except TypeError as error:
        raise ValueError(str(error)) from error
    except ValueError as error:
        with imperial.enable(), suppress(ValueError):
            return units.Unit(unit)
        raise error


def unit_in(name: str, spec_unit: str) -> str:
    """The unit in brackets at the end of a column's name, such as km in "y (km)"; "" if there is none.

    A unit of another kind than `spec_unit` is not returned, because the brackets may hold something else.

    Args:
        name: The name of the column.
        spec_unit: The unit of the observable, to which the unit of the column must be convertible.

    Raises:
        ValueError: If the name ends in another unit of the same kind without brackets, as in "y_mi". The
            values may or may not have that unit.
    """
    found = re.fullmatch(r".+?(?:\s*\((?P<said>[^()]+)\)|[\s_.](?P<perhaps>[^\s_.()]+))", name)
    if found is None or not spec_unit:
        return ""
    said = found["said"] or found["perhaps"]
    try:
        other, ours = parsed_unit(said), parsed_unit(spec_unit)
    except ValueError:
        return ""
    if not other.is_equivalent(ours) or (other == ours and not found["said"]):
        return ""
    if found["said"]:
        return said
    if len(said) < 2 or said == "min":  # A single letter is rather a label, and "min" rather the minimum.
        return ""
    raise ValueError(
        f"the column {name!r} seems to be in {said!r}, but the file does not state its unit; the simulator's is "
        f"{spec_unit!r}. Write the unit of the values into the name, in brackets: "
        f"{name[: -len(said)].rstrip(' _.')} [{said}], or {name[: -len(said)].rstrip(' _.')} [{spec_unit}]"
    )


def only_once(path: Path, names: Sequence[str], wanted: Callable[[str], bool]) -> None:
    """Raise an error if a file holds a wanted name more than once.

    Raises:
        ValueError: If a wanted name occurs more than once.
    """
    twice = [name for name, times in Counter(names).items() if times > 1 and wanted(name)]
    if twice:
        raise ValueError(f"{path} holds {', '.join(map(repr, twice))} more than once; keep one of them")


def guarded(path: Path, what: str, read: Callable[[], Any]) -> Any:
    """The result of `read`, with every error of a library turned into one that names the file.

    Args:
        path: The file.
        what: The kind of file, for the message.
        read: A function without arguments that reads the file.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What is used of the file is checked here, not by the library.
            return read()
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} is not a readable {what}: {reason}") from error
