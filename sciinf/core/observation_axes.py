"""Columns of a file that hold the coordinates of its rows: times, wavelengths, names of species.

Rows are taken in the order of the file. A column may have the name of an axis for which the simulator
declares coordinates. Its values must then equal these coordinates, row by row. Otherwise data at other times,
or in another order, would be read as the simulator's. If the simulator declares no coordinates, the column
cannot be compared, and a finding says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sciinf.core.checks import check_unit
from sciinf.core.findings import Cause, Finding, Level
from sciinf.core.observable import Observable
from sciinf.core.observation_columns import Column, Contents, SoughtColumns, parsed_unit
from sciinf.core.observation_files import open_columns, values_of

NAME = "coordinates"
"""What findings about columns that could not be compared are called."""
# Coordinates are equal up to this fraction of their least distance, because a file may hold rounded numbers.
_NEAR = 0.01
_UNIT_OF_TIME = "(?i:(year|month|week|day|hour|minute|second)s?)"
_TIMES = f"(?i:(elapsed[_ ]?)?times?([_ ]?[(]?[a-z]{{1,4}}[)]?)?|elapsed)|t|{_UNIT_OF_TIME}"
"""What times are called. A capital T may be a temperature."""
_LOOKED_AT = 8  # number of unused columns that are searched for the coordinates of an axis
_LISTED = 40  # largest number of coordinates that a proposed line of code lists
_PLAIN = Observable()


@dataclass(frozen=True)
class AxisColumn:
    """A column that is not data itself, and has the name of an axis of the data.

    Args:
        axis: The axis, in lower case; "time" for all names of times.
        name: The column's name.
        path: The file.
        column: The column; None if it cannot be read.
    """

    axis: str
    name: str
    path: Path
    column: Column | None


def open_beside(
    path: Path, wanted: SoughtColumns, observables: Mapping[str, Observable], stack: ExitStack
) -> tuple[Contents, list[AxisColumn]]:
    """The data columns of a file, and its columns that have the name of an axis.

    Args:
        path: The file.
        wanted: The data columns to look for.
        observables: The observables whose axes are looked for: observable name -> specification.
        stack: The context that closes the file.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the data cannot be read (see `open_columns`). A column with the name of an axis that
            cannot be read is no error.
    """
    axes = sorted({axis for spec in observables.values() for axis in _axes(spec)} - {"item"})
    pattern = "|".join(_TIMES if axis == "time" else f"(?i:{re.escape(axis)})" for axis in axes)
    named_so = re.compile(pattern or "(?!)")
    try:
        contents = open_columns(path, replace(wanted, pattern=f"{wanted.pattern}|{named_so.pattern}"), stack)
    except ValueError:  # The cause may be a column of coordinates alone, so the data are tried without them.
        contents = open_columns(path, wanted, stack)
    names = [name for name in dict.fromkeys(contents.names) if named_so.fullmatch(name) and not wanted(name)]
    beside = [AxisColumn(_axis(name), name, path, contents.columns.get(name)) for name in names]
    exact = {one.axis for one in beside if one.name.casefold() == one.axis}
    columns = {name: column for name, column in contents.columns.items() if wanted(name)}
    return Contents(contents.names, columns), [
        one for one in beside if one.name.casefold() == one.axis or one.axis not in exact
    ]


def compare(
    beside: Sequence[AxisColumn], observables: Mapping[str, Observable], files: Mapping[str, Collection[Path]]
) -> tuple[list[str], list[Finding]]:
    """Names of columns that agree with the simulator's coordinates, and findings about those without
    a comparison.

    Args:
        beside: The columns that have the name of an axis.
        observables: What the simulator produces: observable name -> specification.
        files: Observable name -> the files that hold this observable. A column is compared with the
            observables in its own file, or with all observables if its file holds none. Agreement with one
            observable is enough.

    Raises:
        ValueError: If the values differ from the coordinates, or are in another order. If the column is named
            by a unit of time ("year", "day", ...), other values are a finding instead: their zero may be
            another one.
    """
    agree, doubts = dict[tuple[str, Path], str](), dict[tuple[str, Path], Finding]()
    for one in beside:
        here = [name for name in observables if one.path in files[name]] or [*observables]
        found = _compared(one, {name: observables[name] for name in here})
        if isinstance(found, Finding):
            doubts[one.axis, one.path] = found
        elif found:
            agree[one.axis, one.path] = one.name
    return [*dict.fromkeys(agree.values())], [found for at, found in doubts.items() if at not in agree]


def _compared(one: AxisColumn, observables: Mapping[str, Observable]) -> bool | Finding:
    """Whether a column agrees with one of the observables of its file; a finding if this cannot be decided.

    The result is False if no observable has as many values along the axis as the column. The result is also
    False if an observable with this axis has its times as data, in an observable `NAME_times`.
    """
    if any(one.axis in _axes(observables[name]) for name in observables if f"{name}_times" in observables):
        return False
    size = None if one.column is None else math.prod(one.column.shape)
    along = {name: axes for name, spec in observables.items() if one.axis in (axes := _axes(spec))}
    lengths = {name: observables[name].shape[axes.index(one.axis)] for name, axes in along.items()}
    specs = {name: observables[name] for name, length in lengths.items() if size in (None, length)}
    wrong, elsewhere = "", re.fullmatch(_UNIT_OF_TIME, one.name) is not None
    for spec in specs.values():
        axis = next((axis for axis in spec.coords if _axis(axis) == one.axis), "")
        if not axis or one.column is None:
            continue
        theirs = list(spec.coords[axis])
        try:
            ours = _values(one, one.column, spec.coord_units.get(axis, ""), text=isinstance(theirs[0], str))
        except ValueError as error:
            wrong = wrong or str(error)
            continue
        if ours is None:
            continue
        if same_places(ours, theirs):
            return True
        if isinstance(theirs[0], str) and sorted(ours) != sorted(theirs):
            continue  # The column may name the same things by other names, so it is not an error.
        wrong = wrong or _told(one, spec.coord_units.get(axis, ""), ours, theirs)
        elsewhere &= not same_places(sorted(ours), sorted(theirs))  # type: ignore[type-var]
    if wrong and elsewhere:
        return _finding(one, f"{one.path.name}: {wrong}")
    if wrong:
        raise ValueError(f"{one.path}: {wrong}")
    return _not_compared(one, specs) if specs else False


def by_other_names(
    paths: Sequence[Path], names: Sequence[str], observables: Mapping[str, Observable], known: Collection[str]
) -> list[str]:
    """Names of columns that hold an axis's coordinates under another name, such as "MJD".

    Args:
        paths: The files.
        names: Names of columns that have no other use; the first 8 are read.
        observables: What the simulator produces: observable name -> specification.
        known: Axes after which a column is named already; they are not looked for.

    Raises:
        ValueError: If a column has the coordinates of an axis in another order.
    """
    along = {axis: list(values) for spec in observables.values() for axis, values in spec.coords.items()}
    along = {axis: values for axis, values in along.items() if axis not in known and not may_be_ranks(values)}
    agree, wrong = list[str](), dict[str, str]()
    for path, name in ((path, name) for path in paths for name in names[:_LOOKED_AT] if along):
        ours = _numbers(path, name, max(map(len, along.values())))
        for axis, theirs in list(along.items()):
            if isinstance(theirs[0], str) or ours is None or len(ours) != len(theirs):
                continue
            if same_places(ours, theirs):
                agree.append(name)
                along = {other: values for other, values in along.items() if other != axis}
                wrong.pop(axis, None)
            elif same_places(sorted(ours), sorted(theirs)):
                wrong.setdefault(axis, f"{path}: by its column {name!r}, {_disordered(axis, theirs)}")
    if wrong:
        raise ValueError(next(iter(wrong.values())))
    return agree


def _numbers(path: Path, name: str, most: int) -> list[float] | None:
    """The values of a column with at most `most` numbers; None if there are more, or if it cannot be read."""
    with ExitStack() as stack, suppress(ValueError):
        column = open_columns(path, SoughtColumns(re.escape(name), most), stack).columns.get(name)
        if column is not None and column.dtype.kind in "iuf" and math.prod(column.shape) <= most:
            return [float(value) for value in np.ravel(values_of(path, column))]
    return None


def unsaid(observables: Mapping[str, Observable], columns: Mapping[str, int]) -> str:
    """A sentence that no column is named like the axis of the rows, so that they are in the file's order.

    The sentence is empty if the simulator declares no coordinates along the rows.

    Args:
        observables: What the simulator produces: observable name -> specification.
        columns: Observable name -> number of columns of the file that make it up.
    """
    rows = [observables[name] for name, count in columns.items() if len(observables[name].shape) == 1 + (count > 1)]
    firsts = dict.fromkeys(spec.dims[0] for spec in rows if spec.dims and spec.dims[0] in spec.coords)
    names = ", ".join(map(repr, firsts))
    return f"rows are taken in their order: no column is named {names}, to compare" if names else ""


def in_order(labels: Mapping[str, str], spec: Observable) -> list[str]:
    """Names of columns, in the order of the last axis if their labels are its coordinates, else as given.

    Args:
        labels: Name of a column -> its label.
        spec: The observable that the columns make up.
    """
    along = [str(value).casefold() for value in spec.coords.get(spec.dims[-1], ())] if spec.dims else []
    called = {label.casefold(): column for column, label in labels.items()}
    return [called[value] for value in along] if sorted(called) == sorted(along) else list(labels)


def _axis(name: str) -> str:
    """The axis that a name stands for: "time" for all names of times, else the name in lower case."""
    return "time" if re.fullmatch(_TIMES, name) else name.casefold()


def _unit(one: AxisColumn, column: Column) -> str:
    """A column's unit; without one, the unit of time in the column's name, if any."""
    named = re.fullmatch(_UNIT_OF_TIME, one.name)
    return column.unit or (named[1].lower() if named else "")


def _axes(spec: Observable) -> tuple[str, ...]:
    """The axes of an observable; ("time",) if they have no names, because the first may be time."""
    return tuple(map(_axis, spec.dims)) if spec.dims else ("time",) * bool(spec.shape)


def _not_compared(one: AxisColumn, specs: Mapping[str, Observable]) -> Finding:
    """The finding that a column could not be compared, with the line of code that would make it possible."""
    name, spec = next(iter(specs.items()))
    ours = None if one.column is None else _values(one, one.column, "", text=one.column.dtype.kind == "U")
    what = f"{one.path.name}: its column {one.name!r}"
    if ours and one.column is not None:
        what += f" ({few_words(ours)}{f' {unit}' if (unit := _unit(one, one.column)) else ''})"
    if any(_axis(axis) == one.axis for axis in spec.coords):
        words = f"{what} cannot be compared with the coordinates of {name!r} in the simulator"
        return _finding(one, f"{words}. Write it in numbers, or words, and a unit like theirs")
    words = f"{what} was compared with nothing: the simulator declares no coordinates of {name!r}. So data that stand "
    words += (
        f"elsewhere along {one.axis!r}, or in another unit, would pass. Declare them, by the array that the simulator "
    )
    words += "computes with: Observable(..., coords=...)"
    if not ours or one.column is None:
        return _finding(one, words)
    line = f'"{name}": {_declared(one, spec, ours, _unit(one, one.column))}'
    return _finding(one, f"{words}; `sciinf check SIMULATOR --observation FILE` writes the line", declare=line)


def _finding(one: AxisColumn, words: str, **figures: str) -> Finding:
    figures = {"column": one.name, "axis": one.axis, **figures}
    return Finding(NAME, Level.UNKNOWN, words, "not compared", figures, Cause.COORDINATES)


def _declared(one: AxisColumn, spec: Observable, ours: Sequence[str] | Sequence[float], unit: str) -> str:
    """The line of code that declares the observable with the column's values as coordinates."""
    dims = spec.dims or ("time", *(f"axis_{k}" for k in range(1, len(spec.shape))))
    axis = next(axis for axis in dims if _axis(axis) == one.axis)
    if isinstance(ours[0], str):
        values = repr(list(ours))
    elif len(ours) > 2 and same_places(np.linspace(float(ours[0]), float(ours[-1]), len(ours)).tolist(), ours):
        values = f"np.linspace({ours[0]:.10g}, {ours[-1]:.10g}, {len(ours)})"
    else:
        values = f"[{', '.join(f'{value:.10g}' for value in ours)}]"
    values = values if len(ours) <= _LISTED or values.startswith("np.") else axis
    about = [f"{key}={value!r}" for key in ("dtype", "scale") if (value := getattr(spec, key)) != getattr(_PLAIN, key)]
    coords = [f"{key!r}: {list(known)!r}" for key, known in spec.coords.items()] + [f"{axis!r}: {values}"]
    about += ["control=True"] if spec.control else []
    about.append(f"coords={{{', '.join(coords)}}}")
    units = dict(spec.coord_units)
    with suppress(ValueError):
        check_unit(unit, axis)
        units |= {axis: unit} if unit and not isinstance(ours[0], str) else {}
    about += [f"coord_units={units!r}"] if units else []
    line = f"Observable({spec.shape!r}, {spec.unit!r}, dims={dims!r}, {', '.join(about)})"
    return line if '"' in line else line.replace("'", '"')  # A label that holds an apostrophe must keep it.


def _values(one: AxisColumn, column: Column, unit: str, *, text: bool) -> list[str] | list[float] | None:
    """A column's values in the form of coordinates; None if it cannot be read, or as `values_along`."""
    if column.dtype.kind not in ("U" if text else "iuf"):
        return None
    try:
        values = np.ravel(values_of(one.path, column))
    except ValueError:
        return None
    return values_along(one.name, values, _unit(one, column), unit, text=text)


def values_along(name: str, values: np.ndarray, own: str, unit: str, *, text: bool) -> list[str] | list[float] | None:
    """Values along an axis, converted to the unit of the coordinates, as a list of text or numbers.

    The result is None if `values` are not of the coordinates' kind (text or numbers), or if astropy cannot
    read `own`.

    Args:
        name: Name of the column, for messages.
        values: Text or numbers, (n,).
        own: Unit of the values; "" if it is unknown.
        unit: Unit of the coordinates.
        text: Whether the coordinates are text.

    Raises:
        ValueError: If one unit does not convert to the other.
    """
    if values.dtype.kind not in ("U" if text else "iuf"):
        return None
    if text:
        return [str(value) for value in values]
    if unit and own and own != unit:
        from astropy import units

        try:
            theirs = parsed_unit(own)
        except ValueError:  # Files may hold units that astropy cannot read, such as "days since 1900-01-01".
            return None
        try:
            values = np.asarray(units.Quantity(values, theirs).to_value(units.Unit(unit)))
        except units.UnitConversionError as error:
            raise ValueError(
                f"its column {name!r} has a unit that does not convert to the simulator's: {error}"
            ) from error
    return [float(value) for value in values]


def may_be_ranks(values: Sequence[str] | Sequence[float]) -> bool:
    """Whether coordinates are the whole numbers from 0 or 1, which may also be row numbers or ranks."""
    return list(values) in ([*range(len(values))], [*range(1, len(values) + 1)])


def same_places(ours: Sequence[str] | Sequence[float], theirs: Sequence[str] | Sequence[float]) -> bool:
    """Whether two lists of coordinates are equal; numbers, up to a hundredth of their least distance."""
    if isinstance(theirs[0], str):
        return list(ours) == list(theirs)
    ends = np.asarray(theirs, dtype=float)
    steps = np.abs(np.diff(np.sort(ends)))
    near = _NEAR * float(steps[steps > 0].min()) if (steps > 0).any() else 1e-6 * abs(float(ends[0]))
    return bool((np.abs(np.asarray(ours, dtype=float) - ends) <= near).all())


def _told(
    one: AxisColumn, unit: str, ours: Sequence[str] | Sequence[float], theirs: Sequence[str] | Sequence[float]
) -> str:
    unit = f" {unit}" if unit else ""
    if same_places(sorted(ours), sorted(theirs)):  # type: ignore[type-var]
        return _disordered(one.axis, theirs, unit)
    return (
        f"its column {one.name!r} has {few_words(ours)}{unit}, and the simulator's data stand at "
        f"{few_words(theirs)}{unit}: bring the data to those, or simulate at the file's; where rows do belong to "
        f"those, leave {one.name!r} out of the file"
    )


def _disordered(axis: str, theirs: Sequence[str] | Sequence[float], unit: str = "") -> str:
    along = f"its rows are in another order along {axis!r} than the simulator's"
    return f"{along}; sort them ({few_words(theirs)}{unit})"


def few_words(values: Sequence[str] | Sequence[float]) -> str:
    """Coordinates as text; of more than four, the first three and the last."""
    shown = [value if isinstance(value, str) else f"{value:.6g}" for value in values]
    return ", ".join(shown) if len(shown) <= 4 else f"{', '.join(shown[:3])}, ..., {shown[-1]}"
