"""Columns of files with one simulation per row, found by name and read by rows in the requested unit."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinf.core import Observable, Prior

if TYPE_CHECKING:
    import h5py

Read = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class StoredArray:
    """One array of a file: `read(start, stop)` returns rows (stop - start, *shape)."""

    rows: int
    shape: tuple[int, ...]
    unit: str
    read: Read


@dataclass(frozen=True)
class TableField:
    """One parameter or observable in its own unit: `read(start, stop)` returns rows (stop - start, *event)."""

    rows: int
    read: Read


@dataclass(frozen=True)
class TableFile:
    """Columns of one file; `label` is the name of the file in messages."""

    label: str
    columns: Mapping[str, StoredArray]


def open_table(path: Path, stack: ExitStack) -> TableFile:
    """Columns of a file. HDF5 files stay open (and unread) until the stack closes.

    Raises:
        ValueError: If the file is of an unknown kind, unreadable, or has columns of the same name.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown kind of file; expected one of {', '.join(sorted(_READERS))}")
    return TableFile(path.name, reader(path, stack))


def find_parameters(table: TableFile, prior: Prior) -> dict[str, TableField]:
    """Parameters in a file, each converted to the prior's unit.

    Raises:
        ValueError: If a column has another shape, or a unit that cannot be converted.
    """
    wanted = dict(zip(prior.names, prior.units, strict=True))
    found = {n: _number(table, n, unit) for n, unit in wanted.items() if n in table.columns}
    matrix = table.columns.get("theta")
    if found or matrix is None:
        return found
    if matrix.shape != (len(prior),) or matrix.unit:
        raise ValueError(
            f"'theta' in {table.label} has shape (rows, {', '.join(map(str, matrix.shape))}) and unit {matrix.unit!r}; "
            f"expected (rows, {len(prior)}) in the prior's order and units, or one array for each of {prior.names}"
        )
    return {n: TableField(matrix.rows, _column_reader(matrix, i)) for i, n in enumerate(prior.names)}


def find_observable(table: TableFile, name: str, spec: Observable) -> TableField | None:
    """An observable in its own unit, from one array or from numbered columns; None if the file does not hold it.

    Raises:
        ValueError: If the observable has another shape, or a unit that cannot be converted.
    """
    if name in table.columns:
        column = table.columns[name]
        if column.shape != spec.shape and not (spec.shape == () and column.shape == (1,)):
            raise ValueError(
                f"observable {name!r} in {table.label} has shape (rows, {', '.join(map(str, column.shape))}), expected "
                f"(rows, {', '.join(map(str, spec.shape))})"
            )
        return _field([column], spec.unit, spec.shape, f"observable {name!r} in {table.label}")
    size = int(np.prod(spec.shape)) if spec.shape else 0
    for pattern in ("{}_{}", "{}[{}]"):
        keys = [pattern.format(name, i) for i in range(size)]
        present = [key for key in keys if key in table.columns]
        if not present:
            continue
        further = pattern.format(name, size)
        if len(present) < size or further in table.columns:
            odd = next((key for key in keys if key not in table.columns), further)
            raise ValueError(
                f"observable {name!r} of shape {spec.shape} needs the columns {keys[0]} ... {keys[-1]} in "
                f"{table.label}; {odd!r} is {'there besides' if odd == further else 'missing'}"
            )
        label = f"observable {name!r} in {table.label}"
        return _field([table.columns[key] for key in keys], spec.unit, spec.shape, label)
    return None


def _number(table: TableFile, name: str, unit: str) -> TableField:
    column = table.columns[name]
    if column.shape not in ((), (1,)):
        raise ValueError(f"parameter {name!r} in {table.label} has shape (rows, *{column.shape}), expected (rows,)")
    return _field([column], unit, (), f"parameter {name!r} in {table.label}")


def _field(columns: Sequence[StoredArray], unit: str, shape: tuple[int, ...], label: str) -> TableField:
    factors = [_conversion(column.unit, unit, label) for column in columns]
    if len(columns) > 1 and any(column.shape for column in columns):
        raise ValueError(f"the numbered columns of {label} must each be (rows,)")

    def read(start: int, stop: int) -> np.ndarray:
        parts = [convert(column.read(start, stop)) for column, convert in zip(columns, factors, strict=True)]
        return np.stack(parts, axis=-1).reshape(stop - start, *shape)

    return TableField(min(column.rows for column in columns), read)


def _conversion(unit: str, target: str, label: str) -> Callable[[np.ndarray], np.ndarray]:
    if not unit or unit == target:
        return lambda values: values
    from astropy import units

    try:
        there = units.Unit(target)
        units.Quantity(1.0, unit).to_value(there)
    except (units.UnitConversionError, ValueError, TypeError) as error:
        raise ValueError(f"{label} is in {unit!r}, which does not convert to {target!r}: {error}") from error
    return lambda values: np.asarray(units.Quantity(values, unit).to_value(there))


def _column_reader(matrix: StoredArray, index: int) -> Read:
    return lambda start, stop: matrix.read(start, stop)[:, index]


def _loaded(array: np.ndarray, unit: str) -> StoredArray:
    return StoredArray(len(array), array.shape[1:], unit, lambda start, stop: array[start:stop])


def _header(name: str) -> tuple[str, str]:
    """Name and unit from a column title such as `rate [1/h]`; the brackets of `v[0]` hold an index instead."""
    match = re.fullmatch(r"(.+?)\s*\[([^\[\]]*)\]", name.strip())
    if match is None or match.group(2).strip().isdigit():
        return name.strip(), ""
    return match.group(1), match.group(2).strip()


def _open_csv(path: Path, stack: ExitStack) -> dict[str, StoredArray]:
    import pandas

    text = path.open(newline="", encoding="utf-8-sig")
    with text:
        start = list(takewhile(lambda line: line.startswith("#") or not line.strip(), text))
    if start and start[0].startswith("# %ECSV"):
        return _open_ecsv(path, stack)
    try:
        with path.open(newline="", encoding="utf-8-sig") as text:
            titles = next(csv.reader(line for i, line in enumerate(text) if i >= len(start)), [])
        names = [_header(title) for title in titles]
        if len({name for name, _ in names}) != len(names):
            raise ValueError(f"two columns have the same name: {titles}")
        frame = pandas.read_csv(path, skiprows=len(start), skipinitialspace=True, index_col=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable table: {error}") from error
    columns = zip(names, frame.columns, strict=True)
    return {name: _series(path, name, unit, frame[key]) for (name, unit), key in columns}


def _series(path: Path, name: str, unit: str, series: Any) -> StoredArray:
    if series.dtype.kind in "fiub":
        return _loaded(series.to_numpy(), unit)
    import pandas

    numbers: Any = pandas.to_numeric(series, errors="coerce")
    words = np.flatnonzero((numbers.isna() & series.notna()).to_numpy())
    if not len(words):
        return _loaded(numbers.to_numpy(dtype=float), unit)

    def refuse(start: int, stop: int) -> np.ndarray:
        row = int(words[0])
        raise ValueError(
            f"column {name!r} of {path} holds {series.iloc[row]!r} in row {row} (counted from 0), expected a number, "
            "or an empty cell for a missing one"
        )

    return StoredArray(len(series), (), unit, refuse)


def _open_ecsv(path: Path, stack: ExitStack) -> dict[str, StoredArray]:
    from astropy.table import Table as EcsvTable

    try:
        table = EcsvTable.read(path, format="ascii.ecsv")
    except Exception as error:
        raise ValueError(f"{path} is not a readable ECSV table: {error}") from error
    out = {}
    for column in table.itercols():
        values = np.ma.asarray(getattr(column, "value", column))
        if values.dtype.kind in "fiub":
            masked = np.ma.is_masked(values)
            array = np.ma.filled(values.astype(float), np.nan) if masked else np.asarray(values)
            out[str(column.info.name)] = _loaded(array, str(column.info.unit or ""))
    return out


def _open_npz(path: Path, stack: ExitStack) -> dict[str, StoredArray]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {key: _loaded(data[key], "") for key in data.files if data[key].ndim}
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable .npz of plain arrays: {error}") from error


def _open_h5(path: Path, stack: ExitStack) -> dict[str, StoredArray]:
    import h5py

    file = opened_h5(path, stack)
    return {str(k): _dataset(item) for k, item in file.items() if isinstance(item, h5py.Dataset) and item.ndim}


def opened_h5(path: Path, stack: ExitStack) -> Any:
    """Open an HDF5 file until the stack closes.

    Raises:
        ValueError: If the file cannot be read.
    """
    import h5py

    try:
        return stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error


def _dataset(dataset: h5py.Dataset) -> StoredArray:
    unit = dataset.attrs.get("unit", dataset.attrs.get("units", ""))
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    return StoredArray(len(dataset), tuple(dataset.shape[1:]), unit, lambda start, stop: dataset[start:stop])


_READERS: dict[str, Callable[[Path, ExitStack], dict[str, StoredArray]]] = {
    ".csv": _open_csv,
    ".ecsv": _open_ecsv,
    ".npz": _open_npz,
    ".h5": _open_h5,
    ".hdf5": _open_h5,
}
