"""FITS files as named arrays: columns of tables with their units, as astropy's tables read them, and images.

astropy writes units that the FITS standard does not know (electron / min) into comments of the header, where only
`astropy.table.Table.read` finds them; a column's TUNIT alone is not enough.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core.observation_columns import Column, Contents, SoughtColumns, column_of, only_once, plain

_MAGIC = b"SIMPLE  ="
_FIELDS = 999  # columns of a table, by the FITS standard


def read_fits(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """All columns and images of a FITS file by their names; an image without one is called "x" or by its number.

    Raises:
        ValueError: If it is compressed as a whole, cut off, does not have the checksum it names, or names something
            wanted twice.
    """
    from astropy.io import fits

    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path} is not a FITS file, or a compressed one: unpack it")
    opened: Any = stack.enter_context(fits.open(path, memmap=False))
    names: list[str] = []
    columns: dict[str, Column] = {}
    for index, hdu in enumerate(opened):
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU):
            fields: Any = hdu.header.get("TFIELDS", 0)
            if not 0 <= fields <= _FIELDS:  # astropy makes as many at once
                raise ValueError(f"{path} is damaged: HDU {index} has {fields:,} columns, a table at most {_FIELDS}")
            definitions: Any = hdu.columns
            inside = [str(name) for name in definitions.names]
            if any(wanted(name) or wanted(name.rpartition(".")[0]) for name in inside):
                _check(path, hdu, index)
                only_once(path, inside, wanted)
                table = _table(path, hdu)
                inside = list(table)
                columns.update({name: column for name, column in table.items() if wanted(name)})
            names += inside
        elif hdu.shape:
            names.append(_name(hdu, index, wanted))
            if wanted(names[-1]):
                _check(path, hdu, index)
                columns[names[-1]] = _image(hdu)
    only_once(path, names, wanted)
    return Contents(tuple(names), columns)


def _check(path: Path, hdu: Any, index: int) -> None:
    """What the header promises must be in the file, before it is read."""
    size, start = path.stat().st_size, hdu.fileinfo()["datLoc"]
    axes = [hdu.header.get(f"NAXIS{i + 1}", 0) for i in range(hdu.header.get("NAXIS", 0))]
    packed = type(hdu).__name__ == "CompImageHDU"  # its size is that of the image, not of what is stored
    if min([0, *axes]) < 0 or not (packed or 0 <= hdu.size <= size - start):
        raise ValueError(f"{path} is cut off or damaged: HDU {index} promises {hdu.size:,} bytes of data")
    if hdu.is_image:
        return
    width = hdu.columns.dtype.itemsize
    if len(axes) != 2 or axes[1] > size or (type(hdu).__name__ == "BinTableHDU" and width != axes[0]):
        raise ValueError(f"{path} is damaged: HDU {index} has {axes} bytes and rows, its columns need {width} bytes")
    if hdu.verify_datasum() == 0:
        raise ValueError(f"{path} is damaged: the data of HDU {index} do not have the DATASUM in its header")


def _name(hdu: Any, index: int, wanted: SoughtColumns) -> str:
    name = str(hdu.header.get("EXTNAME", "")).strip()
    if not name or name == "PRIMARY":
        return "x" if index == 0 else str(index)
    return name if wanted(name) else name.lower()


def _image(hdu: Any) -> Column:
    unit = hdu.header.get("BUNIT", "")
    return Column(tuple(hdu.shape), np.dtype(float), str(unit).strip(), lambda: _native(np.asarray(hdu.data)))


def _table(path: Path, hdu: Any) -> dict[str, Column]:
    from astropy.table import Column as TableColumn
    from astropy.table import Table
    from astropy.units import Quantity

    _check_heap(path, hdu)
    gaps = {column.name: _with_missing(hdu, column) for column in hdu.columns if column.null is not None}
    for name in gaps:
        hdu.columns[name].null = None  # astropy's tables compare it with scaled values, and fail on text
    raw = {column.name: str(column.unit or "") for column in hdu.columns}
    table = Table.read(hdu)
    found = {}
    for column in table.itercols():
        name = str(column.info.name)
        if not isinstance(column, TableColumn | Quantity):
            found[name] = column_of(np.array(type(column).__name__))  # a time, a place: no numbers
            continue
        info: Any = column.info
        unit = str(info.unit or "")
        _check_unit(path, name, unit, raw.get(name, ""))
        found[name] = column_of(_native(gaps[name] if name in gaps else plain(column)), unit)
    return found


def _check_heap(path: Path, hdu: Any) -> None:
    """Columns of variable length may all promise the same bytes, many times over."""
    stored = np.asarray(hdu.data)
    for column in hdu.columns:
        if "P" in str(column.format) or "Q" in str(column.format):
            lengths = stored[column.name].reshape(-1, 2)[:, 0].astype(float)
            if lengths.min(initial=0) < 0 or lengths.sum() > path.stat().st_size:
                raise ValueError(f"{path} is damaged: column {column.name!r} promises more than the file holds")


def _check_unit(path: Path, name: str, unit: str, header: str) -> None:
    """The unit astropy noted and the one in the header are the same, if both are there."""
    from astropy import units

    if not unit or not header or unit == header:
        return
    try:
        same = abs(units.Unit(header).to(units.Unit(unit)) - 1) < 1e-9
    except (units.UnitConversionError, ValueError, TypeError):
        same = False
    if not same:
        raise ValueError(f"{path}: the header says that {name!r} is in {header!r}, astropy's note {unit!r}; mend one")


def _with_missing(hdu: Any, column: Any) -> np.ndarray:
    """A column's values, NaN where the file holds what marks a missing number (TNULL); that is told as it is stored."""
    values = np.asarray(hdu.data[column.name])
    if values.dtype.kind not in "iuf":
        return values
    stored = np.asarray(hdu.data)[column.name]
    if stored.dtype.kind == "S":
        missing = np.char.strip(stored) == column.null.strip().encode()
    else:
        missing = stored == column.null
    return np.where(missing.reshape(values.shape), np.nan, values) if missing.any() else values


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)
