"""Readers of observation files: `.csv` and `.ecsv` tables, `.json`, `.h5`, `.nc` and `.fits`.

The readers of `.txt`, `.npy`, `.npz` and `.pt` are in `core.observation_arrays`. A reader opens nothing
outside the file: links and storage that lead elsewhere are refused.

A FITS file is read as named arrays: its images, and the columns of its tables with their units. Tables are
read with `astropy.table.Table.read`. Units that the FITS standard does not know (electron / min) stand in
comments of the header, where astropy writes them and where only `Table.read` finds them. A column's TUNIT
alone is therefore not enough.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core import h5_trial
from sciinf.core.observation_arrays import read_npy, read_npz, read_pt, read_txt, text_of
from sciinf.core.observation_columns import Column, Contents, SoughtColumns, column_of, guarded, only_once, plain

_MAGIC = b"SIMPLE  ="
_FIELDS = 999  # The FITS standard allows no more columns in a table.


def read_fits(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The names of all columns and images in a FITS file, and the arrays that are wanted.

    An image without a name is called "x" if it is in the first HDU, and by the number of its HDU otherwise.

    Raises:
        ValueError: If the whole file is compressed, if the file is cut off, if its data do not match their
            checksum, or if it holds a wanted name twice.
    """
    from astropy.io import fits

    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path} is not a FITS file, or a compressed one: unpack it in that case")
    opened: Any = stack.enter_context(fits.open(path, memmap=False))
    names: list[str] = []
    columns: dict[str, Column] = {}
    for index, hdu in enumerate(opened):
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU):
            fields: Any = hdu.header.get("TFIELDS", 0)
            # astropy would make all these columns at once, whatever their number.
            if not 0 <= fields <= _FIELDS:
                raise ValueError(
                    f"{path} is damaged: HDU {index} claims {fields:,} columns, a table has at most {_FIELDS}"
                )
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
    """Refuse an HDU whose header promises more data than the file holds, before the data are read.

    Raises:
        ValueError: If the data are cut off, do not fit their header, or do not match their DATASUM.
    """
    size, start = path.stat().st_size, hdu.fileinfo()["datLoc"]
    axes = [hdu.header.get(f"NAXIS{i + 1}", 0) for i in range(hdu.header.get("NAXIS", 0))]
    # The size of a compressed image is that of the unpacked image, so it says nothing about the stored bytes.
    packed = type(hdu).__name__ == "CompImageHDU"
    if min([0, *axes]) < 0 or not (packed or 0 <= hdu.size <= size - start):
        raise ValueError(f"{path} is cut off or damaged: HDU {index} promises {hdu.size:,} bytes of data")
    if hdu.is_image:
        return
    width = hdu.columns.dtype.itemsize
    if len(axes) != 2 or axes[1] > size or (type(hdu).__name__ == "BinTableHDU" and width != axes[0]):
        raise ValueError(
            f"{path} is damaged: by its header, the table in HDU {index} has {axes} (bytes per row, rows); "
            f"its columns need {width} bytes per row"
        )
    if hdu.verify_datasum() == 0:
        raise ValueError(f"{path} is damaged: the data of HDU {index} do not match the DATASUM in its header")


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
        # astropy's tables would compare TNULL with scaled values, and fail on columns of text.
        hdu.columns[name].null = None
    raw = {column.name: str(column.unit or "") for column in hdu.columns}
    table = Table.read(hdu)
    found = {}
    for column in table.itercols():
        name = str(column.info.name)
        if not isinstance(column, TableColumn | Quantity):
            # Times and sky positions are not numbers: such a column stands as the name of its type.
            found[name] = column_of(np.array(type(column).__name__))
            continue
        info: Any = column.info
        unit = str(info.unit or "")
        _check_unit(path, name, unit, raw.get(name, ""))
        found[name] = column_of(_native(gaps[name] if name in gaps else plain(column)), unit)
    return found


def _check_heap(path: Path, hdu: Any) -> None:
    """Refuse columns of variable length that together promise more numbers than the file has bytes.

    Such columns may all point to the same bytes, many times over.

    Raises:
        ValueError: If a length is negative, or the lengths of one column exceed the size of the file.
    """
    stored = np.asarray(hdu.data)
    for column in hdu.columns:
        if "P" in str(column.format) or "Q" in str(column.format):
            lengths = stored[column.name].reshape(-1, 2)[:, 0].astype(float)
            if lengths.min(initial=0) < 0 or lengths.sum() > path.stat().st_size:
                raise ValueError(f"{path} is damaged: column {column.name!r} promises more than the file holds")


def _check_unit(path: Path, name: str, unit: str, header: str) -> None:
    """Refuse a column for which the unit in astropy's note differs from the unit in the header.

    Raises:
        ValueError: If both units are there and differ.
    """
    from astropy import units

    if not unit or not header or unit == header:
        return
    try:
        same = abs(units.Unit(header).to(units.Unit(unit)) - 1) < 1e-9
    except (units.UnitConversionError, ValueError, TypeError):
        same = False
    if not same:
        raise ValueError(
            f"{path}: by the header, column {name!r} is in {header!r}, but by astropy's note in {unit!r}; "
            "correct one of the two"
        )


def _with_missing(hdu: Any, column: Any) -> np.ndarray:
    """The values of a column, with NaN where the stored value is TNULL, the mark of a missing number.

    TNULL is compared with the values as they are stored, before they are scaled.
    """
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


_TEXT = (".csv", ".ecsv", ".json", ".txt")
# A text file may have this many bytes of notes beside the data, and this many for each number that is wanted.
_TEXT_BYTES, _BYTES_PER_NUMBER = 2**24, 100
_OTHERS = 2_000  # A table may have no more columns than this that are not wanted.
_CHUNK_BYTES = 2**26
_TRIAL_SECONDS, _BYTES_PER_SECOND = 2, 2**24  # Both limit the processor time of a trial reading.
_UNIT_KEYS = ("unit", "units", "Unit", "Units", "UNIT", "UNITS")


def open_columns(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The names of all arrays in an observation file, and the arrays that are wanted.

    The suffix of the file decides which reader is used.

    Args:
        path: The file.
        wanted: The names that are looked for; other names are listed, and their arrays are not read. Its
            `numbers` limits the size of text files, and of the datasets in a trial reading of HDF5.
        stack: Closes the file when the stack is closed.

    Raises:
        FileNotFoundError: If there is no file at the path.
        ValueError: If the file cannot be read, holds a wanted name twice, or refers to other files. The
            message names the file.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file in it that holds the observation")
    if not path.is_file():
        raise FileNotFoundError(f"no observation file at {path}")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"{path}: unknown kind of file; expected one of {', '.join(sorted(_READERS))}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; write the observation again")
    size, most = path.stat().st_size, _TEXT_BYTES + _BYTES_PER_NUMBER * wanted.numbers
    if suffix in _TEXT and size > most:
        raise ValueError(
            f"{path} is a text file of {size / 1e6:,.0f} MB; for {wanted.numbers:,} numbers, at most "
            f"{most / 1e6:,.0f} MB are read: leave out what is not data, or save the data as .h5 or .npz"
        )
    what, reader = _READERS[suffix]
    return guarded(path, what, lambda: reader(path, wanted, stack))


def values_of(path: Path, column: Column) -> np.ndarray:
    """The values of a column of a file.

    Raises:
        ValueError: If the values cannot be read, or their shape is not the one that the file describes. The
            message names the file.
    """
    what = _READERS[path.suffix.lower()][0]
    values = guarded(path, what, column.read)
    if values.shape != column.shape:
        raise ValueError(f"{path} is damaged: it promises the shape {column.shape} and holds {values.shape}")
    return values


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_table(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    from astropy.table import Table

    text = text_of(path)
    ecsv = text[:200].lstrip().startswith("# %ECSV")
    header = _header(text, ecsv)
    _check_separator(path, text, header, ecsv)
    names, columns = [_name_of(raw) for raw in header], {}
    only_once(path, names, wanted)
    _check_header(path, names, wanted)
    asked = sum(map(wanted, names))
    if not asked:
        return Contents(tuple(names), {})
    # astropy would take minutes to read a table with very many columns.
    if (others := len(names) - min(asked, wanted.numbers)) > _OTHERS:
        raise ValueError(
            f"{path} has {others:,} columns beside the data; at most {_OTHERS:,} are read: leave out others"
        )
    table = Table.read(text.splitlines(), format="ascii.ecsv" if ecsv else "ascii.csv")
    for raw, name in zip(header, names, strict=True):
        if not wanted(name) or raw not in table.columns:
            continue
        column: Any = table[raw]
        unit = str(column.info.unit or "")
        columns[name] = column_of(plain(column), unit or (raw[len(name) :].strip(" []") if name != raw else ""))
    return Contents(tuple(names), columns)


def _name_of(raw: str) -> str:
    """The name of a column, without a unit in brackets after it: "v" for "v [mV]"."""
    name, bracket, unit = raw.removesuffix("]").partition("[")
    return name.rstrip() if bracket and raw.endswith("]") and not unit.isdigit() else raw


def _header(text: str, ecsv: bool) -> list[str]:
    """The names in the header line of a table, with their units in brackets if they have any."""
    lines = [line for line in text.splitlines() if line.strip() and not (ecsv and line.startswith("#"))]
    comma = not ecsv or re.search(r"^# delimiter: ','", text, re.MULTILINE) is not None
    found = next(csv.reader(lines[:1], delimiter="," if comma else " ", skipinitialspace=True), [])
    return [name.strip() for name in found]


def _check_header(path: Path, names: Sequence[str], wanted: SoughtColumns) -> None:
    """Refuse a table whose first line holds only numbers, which would be read as the names of its columns.

    Raises:
        ValueError: If the first line holds only numbers and none of them is a wanted name.
    """
    if (
        names
        and not any(map(wanted, names))
        and all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", n) for n in names)
    ):
        said = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
        raise ValueError(
            f"{path} seems to have no header: its first line is {said}. Write a line above it with the names "
            f"of its {len(names)} columns, including those of the observables. A unit may follow in "
            "brackets, as in v [mV]. Here the line could be "
            f"{','.join([*(f'column_{k}' for k in range(1, len(names))), wanted.alone or 'NAME'][-4:])}"
        )


def _check_separator(path: Path, text: str, header: Sequence[str], ecsv: bool) -> None:
    """Refuse a table with tabs or semicolons between its columns, or with decimal commas in its numbers.

    Such a table would be read as a single column, or as twice as many columns as it has.

    Raises:
        ValueError: If the table is such a one.
    """
    other = next((mark for mark in (";", "\t") if len(header) == 1 and mark in header[0]), None)
    if not ecsv and other is not None:
        what = "tabs" if other == "\t" else "semicolons"
        raise ValueError(f"{path} has {what} between its columns, expected commas: replace them, or export it again")
    rows = [line for line in text.splitlines() if line.strip()][1:]
    if not ecsv and rows and all(re.fullmatch(r'\s*"?[+-]?\d+,\d+(e[+-]?\d+)?"?\s*', row) for row in rows):
        if len(header) == 1:
            raise ValueError(
                f"{path} has decimal commas in its numbers, such as {rows[0].strip()}; write them with points"
            )


def _read_json(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    def pairs(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        only_once(path, [key for key, _ in items], lambda _: True)
        return dict(items)

    try:
        data = json.loads(text_of(path), object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply; expected an object of named arrays") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold an object of named arrays, got {type(data).__name__}")
    return Contents(tuple(data), {key: _json_column(path, key, item) for key, item in data.items() if wanted(key)})


def _json_column(path: Path, key: str, item: Any) -> Column:
    unit = ""
    if isinstance(item, dict):
        if "value" not in item or set(item) - {"value", "unit"}:
            raise ValueError(f"{path}: {key!r} has {sorted(item)}, expected 'value' and 'unit'")
        item, unit = item["value"], item.get("unit") or ""
    if not isinstance(unit, str):
        raise ValueError(f"{path}: the unit of {key!r} is {unit!r}, expected a text")
    try:
        values = np.asarray(item)
        if values.dtype.kind not in "biu":
            values = np.asarray(item, dtype=float)  # As a float, null becomes NaN, a missing number.
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path}: {key!r} is neither a number, nor a list of numbers, nor nested lists of equal lengths"
        ) from error
    return column_of(values, unit)


# --- arrays -----------------------------------------------------------------------------------------------------------


def _read_nc(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The names of all variables in a netCDF-4 file (an HDF5 file), and the variables that are wanted.

    Packed variables are unpacked as the netCDF conventions say, with NaN where a value is missing.

    Raises:
        ValueError: If the file is in the classic netCDF format, or for the reasons of HDF5 files.
    """
    with path.open("rb") as file:
        if file.read(3) == b"CDF":
            raise ValueError(
                f"{path} is a netCDF file of the classic format, which is not read; convert it: "
                "nccopy -k nc4 OLD.nc NEW.nc"
            )
    return _read_h5(path, wanted, stack, unpack=True)


def _read_h5(path: Path, wanted: SoughtColumns, stack: ExitStack, *, unpack: bool = False) -> Contents:
    import h5py

    _try(path, wanted)
    file: Any = stack.enter_context(h5py.File(path, "r"))
    names = list(file)
    columns = {}
    for name in filter(wanted, names):
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path}: {name!r} is a link to another place or file; copy the data into the file itself")
        item = file[name]
        if isinstance(item, h5py.Dataset):
            columns[name] = _h5_column(path, name, item)
            if unpack and "true" in str(item.attrs.get("_Unsigned", "")).lower():
                raise ValueError(f"{path}: {name!r} is marked _Unsigned, which is not read; store it as unsigned")
            if unpack and item.dtype.kind in "iuf":
                columns[name] = _unpacked(columns[name], dict(item.attrs))
    return Contents(tuple(names), columns)


def _try(path: Path, wanted: SoughtColumns) -> None:
    """Refuse a file on which HDF5 fails in a trial reading by another process.

    HDF5 hangs on some damaged files, or kills the process that reads them.

    Raises:
        ValueError: If the trial reading fails.
    """
    seconds = str(_TRIAL_SECONDS + path.stat().st_size // _BYTES_PER_SECOND)
    words = [sys.executable, h5_trial.__file__, str(path), wanted.pattern, str(wanted.numbers), seconds]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode < 0:
        raise ValueError(f"{path} is damaged: HDF5 hangs or crashes while reading it")
    if done.returncode > 0:
        raise ValueError((done.stderr.strip().splitlines() or ["it cannot be opened"])[-1])


def _h5_column(path: Path, name: str, item: Any) -> Column:
    if item.external or item.is_virtual:
        raise ValueError(f"{path}: the data of {name!r} lie in other files; copy them into the file itself")
    if item.shape is None:
        raise ValueError(f"{path}: {name!r} is empty")
    if item.chunks and int(np.prod(item.chunks, dtype=float)) * item.dtype.itemsize > _CHUNK_BYTES:
        raise ValueError(
            f"{path}: {name!r} is stored in chunks of {item.chunks}, which are too large to read; "
            "store it without chunks"
        )
    units = {_unit_text(path, name, item.attrs[key]) for key in _UNIT_KEYS if key in item.attrs}
    if len(units) > 1:
        raise ValueError(f"{path}: {name!r} has several units, {sorted(units)}; keep one of them")
    unit = next(iter(units), "").strip()
    return Column(item.shape, item.dtype, unit, lambda: np.asarray(item[()]), _dims(item))


def _dims(item: Any) -> tuple[str, ...]:
    """The names of a dataset's axes; () if any axis has no name.

    The name of an axis is its label, or else the name of the first dimension scale attached to it.
    """
    named = []
    for axis in item.dims:
        scales = (str(scale.name or "").rpartition("/")[2] for scale in axis.values())
        named.append(str(axis.label or next(scales, "")))
    return tuple(named) if all(named) else ()


def _unpacked(column: Column, said: Mapping[str, Any]) -> Column:
    """A column with the unpacked values of a netCDF variable: packed * scale_factor + add_offset.

    A value is NaN where the packed value is `_FillValue` or `missing_value`.
    """
    missing = [np.ravel(said[key])[0] for key in ("_FillValue", "missing_value") if key in said]
    scale, offset = (
        float(np.ravel(said.get(key, [none]))[0]) for key, none in (("scale_factor", 1), ("add_offset", 0))
    )

    def read() -> np.ndarray:
        packed = column.read()
        lost = np.isin(packed, np.asarray(missing, dtype=packed.dtype)) if missing else np.zeros(packed.shape, bool)
        if (scale, offset) == (1.0, 0.0) and not lost.any():
            return packed
        values = packed if packed.dtype.kind == "f" else packed.astype(float)
        values = values if (scale, offset) == (1.0, 0.0) else values * scale + offset
        return np.where(lost, np.nan, values)

    return replace(column, read=read)


def _unit_text(path: Path, name: str, unit: Any) -> str:
    if isinstance(unit, np.ndarray) and unit.size == 1:
        unit = unit.item()
    if isinstance(unit, bytes):
        unit = unit.decode()
    if not isinstance(unit, str):
        raise ValueError(f"{path}: the unit of {name!r} is {str(unit)[:80]!r}, expected a text")
    return unit


_READERS: dict[str, tuple[str, Callable[[Path, SoughtColumns, ExitStack], Contents]]] = {
    ".csv": ("table", _read_table),
    ".ecsv": ("table", _read_table),
    ".txt": ("text of numbers", read_txt),
    ".npy": (".npy of a plain array", read_npy),
    ".npz": (".npz of plain arrays", read_npz),
    ".pt": (".pt of tensors", read_pt),
    ".pth": (".pt of tensors", read_pt),
    ".h5": ("HDF5 file", _read_h5),
    ".hdf5": ("HDF5 file", _read_h5),
    ".nc": ("netCDF file", _read_nc),
    ".fits": ("FITS file", read_fits),
    ".json": ("JSON file", _read_json),
}
