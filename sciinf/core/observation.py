"""Observations: real data from files or arrays, checked against what the simulator produces."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.core.files import read_json
from sciinf.core.simulator import Observable, event_of


def as_observation(observables: Mapping[str, Observable], x: Any, *, batched: bool = False) -> dict[str, Tensor]:
    """x as the estimators take it: observable name -> tensor (batch, *event).

    Args:
        observables: What the simulator produces.
        x: A mapping of named arrays (tensors, numpy arrays, astropy quantities, numbers), or a bare array where
            there is one observable. One observation has event shape, with or without a leading axis of one.
        batched: Whether x has a leading axis of any length.

    Raises:
        ValueError: If a name is missing or unknown, a shape does not fit, a unit does not convert or a value is
            not finite.
    """
    if not isinstance(x, Mapping):
        if len(observables) != 1 or x is None:
            raise ValueError(f"x must be a mapping of {event_of(observables)}, got {type(x).__name__}")
        x = {next(iter(observables)): x}
    missing, unknown = set(observables) - set(x), set(x) - set(observables)
    if missing or unknown:
        raise ValueError(
            f"the observation has {sorted(x)}, the simulator has {event_of(observables)}; "
            + "; ".join(
                ([f"missing: {sorted(missing)}"] if missing else [])
                + ([f"unknown: {sorted(unknown)}"] if unknown else [])
            )
        )
    out = {name: _one(name, spec, x[name], batched) for name, spec in observables.items()}
    if len({len(v) for v in out.values()}) > 1:
        raise ValueError(f"the observables have different batch sizes: { {k: len(v) for k, v in out.items()} }")
    return out


def read_observation(observables: Mapping[str, Observable], *paths: str | Path) -> dict[str, Tensor]:
    """One observation from files: `.csv`/`.ecsv` tables, `.npz`, `.h5`, `.fits` or `.json`.

    A table's columns, a file's arrays or keys, are named like the observables. An observable of shape (rows, k) may
    also stand in k columns `name_0 ... name_{k-1}` (or `name_1 ... name_k`), which are put in the order of their
    numbers, or in columns named `name_<label>` in the file's order. Units are taken from the file where it has them
    (ECSV, FITS, HDF5 attribute `unit`, a header like `v [mV]`) and converted; values without a unit are taken to be in
    the observable's own.

    Returns:
        Observable name -> tensor of its event shape.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a column is missing, a shape does not fit, a unit does not convert, or a value is not finite.
    """
    if not paths:
        raise ValueError("no observation files were given")
    found: dict[str, Any] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"no observation file at {path}")
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise ValueError(f"{path}: unknown kind of file; expected one of {', '.join(sorted(_READERS))}")
        new = reader(path)
        twice = sorted(set(new) & set(found) & set(observables))
        if twice:
            raise ValueError(f"{path} holds {twice}, which an earlier file holds too; keep one of them")
        found.update(new)
    picked = {name: _pick(name, spec, found, paths) for name, spec in observables.items()}
    return {name: value[0] for name, value in as_observation(observables, picked).items()}


def convert(value: Any, unit: str, spec: Observable, name: str) -> np.ndarray:
    """Values in `unit` ("" or None for the observable's own) as numbers in the observable's unit.

    Raises:
        ValueError: If the unit is unknown or does not convert.
    """
    array = np.asarray(value)
    if not unit or unit == spec.unit:
        return array
    from astropy import units

    try:
        return np.asarray(units.Quantity(array, unit).to_value(units.Unit(spec.unit)))
    except (units.UnitConversionError, ValueError, TypeError) as error:
        raise ValueError(
            f"observable {name!r} is in {unit!r}, which does not convert to the simulator's {spec.unit!r}: {error}"
        ) from error


def _one(name: str, spec: Observable, value: Any, batched: bool) -> Tensor:
    if not isinstance(value, Tensor):
        unit = getattr(value, "unit", None)
        array = convert(getattr(value, "value", value), str(unit) if unit else "", spec, name)
        if array.dtype == object or array.dtype.kind not in "biuf":
            raise ValueError(f"observable {name!r} holds {array.dtype} values, expected numbers of shape {spec.shape}")
        value = torch.as_tensor(np.ascontiguousarray(array))
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(
            f"observable {name!r} has {bad} values that are NaN or infinite; remove them, or give the simulator a mask "
            f"observable {name + '_mask'!r} that marks missing values"
        )
    if spec.scale == "log" and bool((value < 0).any()):
        raise ValueError(f"observable {name!r} has values below zero, but its scale is 'log': it takes none")
    if not batched and tuple(value.shape) == spec.shape:
        value = value[None]
    expected = ("batch", *spec.shape) if batched else spec.shape
    if tuple(value.shape[1:]) != spec.shape or value.ndim == 0 or (not batched and len(value) != 1):
        shape = tuple(value.shape[1:]) if not batched and value.shape[:1] == (1,) else tuple(value.shape)
        raise ValueError(f"observable {name!r} has shape {shape}, the simulator produces {expected}")
    return _cast(name, spec, value)


def _cast(name: str, spec: Observable, value: Tensor) -> Tensor:
    """value in the observable's dtype; rounding to fewer digits is fine, changing a number is not."""
    out = value.to(spec.torch_dtype)
    if out.is_floating_point():
        changed = ~torch.isfinite(out)
    else:
        changed = out.to(value.dtype) != value
    if bool(changed.any()):
        raise ValueError(
            f"observable {name!r} has values such as {value[changed][0].item()!r} that its dtype {spec.dtype} cannot "
            "hold; correct them, or give the observable another dtype"
        )
    return out


def _pick(name: str, spec: Observable, found: Mapping[str, Any], paths: tuple[str | Path, ...]) -> np.ndarray:
    if name in found:
        value, unit = found[name]
        array = np.asarray(value)
        flat = array.shape == (1, *spec.shape) or len(spec.shape) <= 1
        if flat and array.size == int(np.prod(spec.shape)):
            array = array.reshape(spec.shape)
        return convert(array, unit, spec, name)
    parts = _side_by_side(name, spec, found)
    if len(spec.shape) == 2 and len(parts) == spec.shape[1]:
        return np.stack([convert(found[key][0], found[key][1], spec, key) for key in parts], axis=-1)
    if len(spec.shape) == 1 and len(parts) == spec.shape[0]:
        return np.stack([np.squeeze(convert(found[key][0], found[key][1], spec, key)) for key in parts], axis=-1)
    raise ValueError(
        f"no column {name!r} in {', '.join(str(p) for p in paths)}: found {sorted(found)}, "
        f"expected {name!r} with shape {spec.shape}"
    )


def _side_by_side(name: str, spec: Observable, found: Mapping[str, Any]) -> list[str]:
    """The columns that make up an observable of one or two axes: by their numbers, else in the file's order.

    Raises:
        ValueError: If the columns are numbered, but not 0 ... k-1 or 1 ... k.
    """
    if len(spec.shape) not in (1, 2):
        return []
    width = spec.shape[-1]
    matches = {key: re.fullmatch(re.escape(name) + r"(?:[_.](\w+)|\[(\w+)\])", key) for key in found}
    labels = {key: match.group(1) or match.group(2) for key, match in matches.items() if match}
    numbers = {key: int(label) for key, label in labels.items() if re.fullmatch("[0-9]+", label)}
    ordered = sorted(numbers, key=lambda key: numbers[key])
    if [numbers[key] for key in ordered] in ([*range(width)], [*range(1, width + 1)]):
        return ordered
    if numbers and len(numbers) == len(labels):
        raise ValueError(
            f"observable {name!r} of shape {spec.shape} needs the columns {name}_0 ... {name}_{width - 1} (or {name}_1 "
            f"... {name}_{width}), the file has {ordered}"
        )
    return list(labels)


def _read_table(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    from astropy.table import Table

    try:
        kind = "ascii.ecsv" if path.read_text()[:200].lstrip().startswith("# %ECSV") else "ascii.csv"
        table = Table.read(path, format=kind)
    except Exception as error:
        raise ValueError(f"{path} is not a readable table: {error}") from error
    out: dict[str, tuple[np.ndarray, str]] = {}
    for column in table.itercols():
        name, unit = str(column.info.name), str(column.info.unit or "")
        match = re.fullmatch(r"(.*?)\s*\[(.*)\]", name)
        if match and not unit and not match.group(2).isdigit():
            name, unit = match.group(1), match.group(2)
        values: Any = np.ma.asarray(getattr(column, "value", column))
        if np.ma.is_masked(values) and values.dtype.kind in "biuf":
            values = values.astype(float).filled(np.nan)
        elif values.dtype.kind == "U" and set(values.ravel().tolist()) <= {"True", "False"}:
            values = values == "True"
        out[name] = (np.asarray(values), unit)
    return out


def _read_npz(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {key: (data[key], "") for key in data.files}
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable .npz of plain arrays: {error}") from error


def _read_h5(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    import h5py

    out: dict[str, tuple[np.ndarray, str]] = {}
    try:
        with h5py.File(path, "r") as file:
            for key, item in file.items():
                if isinstance(item, h5py.Dataset):
                    unit: Any = item.attrs.get("unit", "")
                    out[key] = (np.asarray(item[()]), unit.decode() if isinstance(unit, bytes) else str(unit))
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
    return out


def _read_fits(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    from astropy.io import fits

    out: dict[str, tuple[np.ndarray, str]] = {}
    try:
        with fits.open(path, memmap=False) as opened:
            hdus: Any = opened
            for index, hdu in enumerate(hdus):
                if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                    columns: Any = hdu.columns
                    for column in columns:
                        out[column.name] = (_fits_column(hdu, column), column.unit or "")
                elif hdu.data is not None:
                    unnamed = "x" if index == 0 else str(index)
                    key = hdu.name.lower() if hdu.name and hdu.name != "PRIMARY" else unnamed
                    out[key] = (np.asarray(hdu.data), str(hdu.header.get("BUNIT", "")))
    except OSError as error:
        raise ValueError(f"{path} is not a readable FITS file: {error}") from error
    return {k: (v.astype(v.dtype.newbyteorder("=")), u) for k, (v, u) in out.items()}


def _fits_column(hdu: Any, column: Any) -> np.ndarray:
    """A column's values, NaN where the file holds what marks a missing number (TNULL); that is told as it is stored."""
    values = np.asarray(hdu.data[column.name])
    if column.null is None or values.dtype.kind not in "iuf":
        return values
    stored = np.asarray(hdu.data)[column.name]
    if stored.dtype.kind == "S":
        missing = np.char.strip(stored) == column.null.strip().encode()
    else:
        missing = stored == column.null
    return np.where(missing.reshape(values.shape), np.nan, values) if missing.any() else values


def _read_json(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold an object of named arrays, got {type(data).__name__}")
    out: dict[str, tuple[np.ndarray, str]] = {}
    for key, item in data.items():
        with_unit = isinstance(item, dict) and "value" in item
        if with_unit and set(item) - {"value", "unit"}:
            raise ValueError(f"{path}: {key!r} has {sorted(item)}, expected 'value' and 'unit'")
        value, unit = (item["value"], item.get("unit", "")) if with_unit else (item, "")
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            continue  # a note beside the data
        out[key] = (array, unit)
    return out


_READERS: dict[str, Callable[[Path], dict[str, tuple[np.ndarray, str]]]] = {
    ".csv": _read_table,
    ".ecsv": _read_table,
    ".npz": _read_npz,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".fits": _read_fits,
    ".json": _read_json,
}
