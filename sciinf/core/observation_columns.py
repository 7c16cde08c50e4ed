"""Named arrays in files, looked at before they are read: what a file says of itself may be wrong, huge or hostile.

A reader names everything a file holds, and gives shape, kind and unit of what is wanted; values are read only
afterwards, by `Column.read`. So a file of two kilobytes that promises gigabytes is told by what it promises.
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
    """What is looked for: a regular expression of names, how many numbers in all, and what an array without a name is.

    Args:
        pattern: Of the names.
        numbers: At most.
        alone: The one array that there is to be; "" for several, of which each is called like its file.
    """

    pattern: str
    numbers: int
    alone: str = ""

    def __call__(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None

    def unnamed(self, path: Path) -> str:
        """What the array of a file is called that holds one, without a name."""
        return self.alone or path.name.partition(".")[0]


@dataclass(frozen=True)
class Column:
    """A named array of a file, described; its values are read when they are asked for.

    Args:
        shape: What the file says its shape is.
        dtype: What it holds.
        unit: Its unit, "" where the file names none.
        read: Gives the values.
        dims: Names of its axes, where the file has them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    unit: str
    read: Callable[[], np.ndarray]
    dims: tuple[str, ...] = ()

    def along(self, dims: tuple[str, ...]) -> Column:
        """The column with its axes in the order of those names, where they are the same."""
        if self.dims == dims or sorted(self.dims) != sorted(dims):
            return self
        order = [self.dims.index(axis) for axis in dims]
        shape = tuple(self.shape[place] for place in order)
        return Column(shape, self.dtype, self.unit, lambda: self.read().transpose(order), dims)


@dataclass(frozen=True)
class Contents:
    """All names in a file, and the columns that are wanted."""

    names: tuple[str, ...]
    columns: Mapping[str, Column]


def column_of(values: np.ndarray, unit: str = "") -> Column:
    """A column whose values are there already."""
    return Column(values.shape, values.dtype, unit.strip(), lambda: values)


def plain(column: Any) -> np.ndarray:
    """The values of a column of an astropy table: NaN where one is missing, and booleans where a text says so."""
    values: Any = np.ma.asarray(getattr(column, "value", column))
    if (mask := getattr(column, "mask", None)) is not None:
        values = np.ma.array(np.asarray(getattr(column, "unmasked", values)), mask=mask)
    if np.ma.is_masked(values) and values.dtype.kind in "biuf":
        values = values.astype(float).filled(np.nan)
    elif values.dtype.kind == "U" and set(values.ravel().tolist()) <= {"True", "False"}:
        values = values == "True"
    return np.asarray(values)


def parsed_unit(unit: Any) -> Any:
    """A unit of astropy, by its name or itself; miles, pounds and others like them too.

    Raises:
        ValueError: If there is none of that name.
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
    """The unit that stands in brackets at the end of a column's name, "" where none does: km of "y (km)".

    Args:
        name: The column's name.
        spec_unit: The unit that its values are to have.

    Raises:
        ValueError: If the name ends in another unit of the same kind without brackets, "y_mi", which may be its unit.
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
    if len(said) < 2 or said == "min":  # a letter is a label, and min the least
        return ""
    raise ValueError(
        f"the column {name!r} seems to be in {said!r}, and nothing else in the file says its unit; the simulator's is "
        f"{spec_unit!r}. Write the unit that its values have into the name, in brackets: "
        f"{name[: -len(said)].rstrip(' _.')} [{said}], or {name[: -len(said)].rstrip(' _.')} [{spec_unit}]"
    )


def only_once(path: Path, names: Sequence[str], wanted: Callable[[str], bool]) -> None:
    """Refuse what is wanted and there more than once.

    Raises:
        ValueError: If so.
    """
    twice = [name for name, times in Counter(names).items() if times > 1 and wanted(name)]
    if twice:
        raise ValueError(f"{path} holds {', '.join(map(repr, twice))} more than once; keep one of them")


def guarded(path: Path, what: str, read: Callable[[], Any]) -> Any:
    """What `read` gives. Whatever a library says of a damaged file becomes one error that names the file.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's doubts about a file: what is used of it is checked here
            return read()
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} is not a readable {what}: {reason}") from error
