"""Columns of a file that say where its values stand: times, wavelengths, names of species.

Rows are taken in the order of the file. Where a column is named like an axis that has coordinates, it has to say the
same of each row as the simulator does: data at other times, or in another order, would be read as what they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sciinf.core.observation_columns import Column
from sciinf.core.simulator import Observable

_NEAR = 0.01  # of the least distance between two coordinates: a number that was rounded as it was written


def axes_of(observables: Mapping[str, Observable]) -> dict[str, list[Observable]]:
    """Name of an axis with coordinates -> the observables that have it."""
    found: dict[str, list[Observable]] = {}
    for spec in observables.values():
        for axis in spec.coords:
            found.setdefault(axis, []).append(spec)
    return found


def told_along(axis: str, specs: Sequence[Observable], path: Path, column: Column) -> str:
    """What a column says of an axis, in words: that it is the simulator's; "" where the two cannot be compared.

    Args:
        axis: Its name.
        specs: The observables that have it; the column need agree with one of them.
        path: The file.
        column: The column.

    Raises:
        ValueError: If values stand elsewhere, or in another order.
    """
    wrong = ""
    for spec in specs:
        theirs = list(spec.coords[axis])
        try:
            ours = _values(axis, column, spec.coord_units.get(axis, ""), text=isinstance(theirs[0], str))
        except ValueError as error:
            wrong = wrong or str(error)
            continue
        if ours is None or len(ours) != len(theirs):
            continue
        if _same(ours, theirs):
            return f"{axis}: as the simulator has it"
        if isinstance(theirs[0], str) and sorted(ours) != sorted(theirs):
            continue  # the same things by other names, as far as one can know
        wrong = wrong or _told(axis, spec, ours, theirs)
    if wrong:
        raise ValueError(f"{path}: {wrong}")
    return ""


def unsaid(axes: Iterable[str], along: Mapping[str, str]) -> str:
    """That no column was named like an axis, so that rows were taken in the order of the file; "" where one was."""
    names = ", ".join(map(repr, axes))
    return f" (rows are taken in their order: no column is named {names}, to compare)" if names and not along else ""


def in_order(labels: Mapping[str, str], spec: Observable) -> list[str]:
    """Columns side by side in the order of the last axis, where their labels are its coordinates; else as they come.

    Args:
        labels: Name of a column -> its label.
        spec: The observable that they make up.
    """
    along = [str(value).casefold() for value in spec.coords.get(spec.dims[-1], ())] if spec.dims else []
    called = {label.casefold(): column for column, label in labels.items()}
    return [called[value] for value in along] if sorted(called) == sorted(along) else list(labels)


def _values(axis: str, column: Column, unit: str, *, text: bool) -> list[str] | list[float] | None:
    """A column's values as the coordinates are; None where it is of another kind, or its unit is none of astropy's."""
    if column.dtype.kind not in ("U" if text else "iuf"):
        return None
    values = np.ravel(column.read())
    if text:
        return [str(value) for value in values]
    if column.unit and unit and column.unit != unit:
        from astropy import units

        try:
            theirs = units.Unit(column.unit)
        except (ValueError, TypeError):  # no unit of astropy's, such as "days since 1900-01-01"
            return None
        try:
            values = np.asarray(units.Quantity(values, theirs).to_value(units.Unit(unit)))
        except units.UnitConversionError as error:
            raise ValueError(
                f"its column {axis!r} has a unit that does not convert to the simulator's: {error}"
            ) from error
    return [float(value) for value in values]


def _same(ours: Sequence[str] | Sequence[float], theirs: Sequence[str] | Sequence[float]) -> bool:
    if isinstance(theirs[0], str):
        return list(ours) == list(theirs)
    ends = np.asarray(theirs, dtype=float)
    steps = np.abs(np.diff(np.sort(ends)))
    near = _NEAR * float(steps[steps > 0].min()) if (steps > 0).any() else 1e-6 * abs(float(ends[0]))
    return bool((np.abs(np.asarray(ours, dtype=float) - ends) <= near).all())


def _told(
    axis: str, spec: Observable, ours: Sequence[str] | Sequence[float], theirs: Sequence[str] | Sequence[float]
) -> str:
    unit = spec.coord_units.get(axis, "")
    unit = f" {unit}" if unit else ""
    if _same(sorted(ours), sorted(theirs)):  # type: ignore[type-var]
        return f"its rows are in another order along {axis!r} than the simulator's; sort them ({_few(theirs)}{unit})"
    return (
        f"its column {axis!r} has {_few(ours)}{unit}, and the simulator's data stand at {_few(theirs)}{unit}: bring "
        f"the data to those, or simulate at the file's; where rows do belong to those, leave {axis!r} out of the file"
    )


def _few(values: Sequence[str] | Sequence[float]) -> str:
    shown = [value if isinstance(value, str) else f"{value:.6g}" for value in values]
    return ", ".join(shown) if len(shown) <= 4 else f"{', '.join(shown[:3])}, ..., {shown[-1]}"
