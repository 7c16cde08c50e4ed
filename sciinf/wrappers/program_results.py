"""What external programs write: JSON, .npz, or plain numbers with or without a header, as named arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core import Observable

_SEPARATOR = re.compile(r"[\s,;]+")


def read_results(observables: Mapping[str, Observable], source: Path, *, where: str) -> dict[str, Any]:
    """Observable name -> array, from a file a program wrote.

    `.npz` and `.json` files are read as such, and so is JSON in any other file. Otherwise the file holds numbers,
    parted by blanks, commas or semicolons; `#` begins a comment. With a first line of names it is a table: an
    observable is the column of its name, or the columns `name_0`, `name_1`, ... Without, the numbers are the
    observables one after the other, each in row-major order. Names that are no observables are left out.

    Args:
        observables: What is looked for.
        source: The file.
        where: How messages call it.

    Raises:
        ValueError: If it is missing or empty, cannot be read, or lacks an observable.
    """
    if not source.is_file():
        raise ValueError(f"the program wrote no {where}")
    if source.suffix.lower() == ".npz":
        return _named(_npz(source, where), observables, where)
    try:
        text = source.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"the {where} is no text: {error}") from error
    if not text.strip():
        raise ValueError(f"the {where} is empty")
    if source.suffix.lower() == ".json" or text.lstrip()[0] in "{[":
        return _named(_json(text, where), observables, where)
    lines = [line for line in (line.split("#")[0].strip() for line in text.splitlines()) if line]
    rows = [[_number(token) for token in _SEPARATOR.split(line) if token] for line in lines]
    if len(rows) > 1 and None in rows[0] and all(None not in row for row in rows[1:]):
        header = [token.strip("\"'") for token in _SEPARATOR.split(lines[0]) if token]
        return _table(header, rows[1:], observables, where)
    if bad := [line for line, row in zip(lines, rows, strict=True) if None in row]:
        raise ValueError(f"the {where} has a line that is not all numbers: {bad[0][:80]!r}")
    return _in_order([value for row in rows for value in row if value is not None], observables, where)


def _npz(source: Path, where: str) -> dict[str, np.ndarray]:
    try:
        with np.load(source, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ValueError(f"the {where} is no readable .npz of plain arrays: {error}") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"the {where} is no JSON: {error}") from error


def _named(data: Any, observables: Mapping[str, Observable], where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        if len(observables) != 1:
            raise ValueError(f"the {where} holds one array, expected an object with {sorted(observables)}")
        data = {next(iter(observables)): data}
    if missing := [name for name in observables if name not in data]:
        raise ValueError(f"the {where} has {sorted(map(str, data))}: missing {missing}")
    return {name: _array(name, data[name], where) for name in observables}


def _array(name: str, value: Any, where: str) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
        return array.astype(float) if array.dtype == object else array  # null is a missing number
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} in the {where} is no array of numbers: {error}") from error


def _table(
    header: list[str], rows: list[list[float | None]], observables: Mapping[str, Observable], where: str
) -> dict[str, Any]:
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"the {where} has rows of other lengths than its header {header}")
    values = np.array(rows, dtype=float).reshape(len(rows), len(header))
    out = {}
    for name, spec in observables.items():
        columns = [header.index(name)] if name in header else []
        for index in range(len(header) if not columns else 0):
            if f"{name}_{index}" in header:
                columns.append(header.index(f"{name}_{index}"))
        found = values[:, columns]
        if not columns or found.size != int(np.prod(spec.shape)):
            raise ValueError(
                f"the {where} has {len(rows)} rows of the columns {header}; {name!r} needs {spec.shape} numbers in a "
                f"column of its name or columns {name}_0, {name}_1, ..."
            )
        out[name] = found.reshape(spec.shape)
    return out


def _in_order(values: list[float], observables: Mapping[str, Observable], where: str) -> dict[str, Any]:
    sizes = [int(np.prod(spec.shape)) for spec in observables.values()]
    if len(values) != sum(sizes):
        shapes = ", ".join(f"{name!r} {spec.shape}" for name, spec in observables.items())
        raise ValueError(f"the {where} has {len(values)} numbers, expected {sum(sizes)} for {shapes}")
    parts = np.split(np.array(values), np.cumsum(sizes)[:-1])
    return {name: part.reshape(spec.shape) for (name, spec), part in zip(observables.items(), parts, strict=True)}


def _number(token: str) -> float | None:
    for text in (token, token.replace("D", "e").replace("d", "e")):  # Fortran writes 1.0D-03
        try:
            return float(text)
        except ValueError:
            continue
    return None
