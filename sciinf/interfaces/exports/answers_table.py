"""Answers to many observations as one table: `.ecsv`, `.fits`, `.h5` (or `.hdf5`), `.csv`. All of it is in memory.

A row for each observation, in order, those without an answer with NaN; the columns of `Answers.columns`, with units,
and `calibration`, the verdict on the network, the same in each row, so that no reader misses it. What all of it says is
in `.meta`, but for a `.csv`, whose header has the units: `name [unit]`.
"""

from __future__ import annotations

import csv
import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinf.core.files import write_bytes, write_through
from sciinf.interfaces.surveys.answers import Answers

if TYPE_CHECKING:
    from astropy.table import QTable

_CARD = 70  # characters of a comment in FITS
_FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".h5": "hdf5", ".hdf5": "hdf5", ".csv": "csv"}


def survey_table(answers: Answers) -> QTable:
    """All rows as a QTable: a quantity for each column with a unit."""
    from astropy import units
    from astropy.table import QTable

    table = QTable(meta={"comments": answers.summary().splitlines()})
    columns = answers.columns_of(answers.columns)
    for name, unit in answers.columns.items():
        values = columns[name]
        table[name] = values << units.Unit(unit) if unit else values
    table["calibration"] = np.full(len(answers), answers.calibrated)
    return table


def check_table(path: str | Path, made: str | Path | None = None) -> None:
    """Refuse a file whose name does not say what it is to be, or whose folder is not there.

    Args:
        path: The file.
        made: A folder that will be there.

    Raises:
        ValueError: If so.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: unknown kind of table; expected one of {', '.join(_FORMATS)}")
    if not path.parent.is_dir() and (made is None or path.parent.resolve() != Path(made).resolve()):
        raise ValueError(f"{path}: the folder {path.parent} does not exist")


def write_answers(answers: Answers, path: str | Path) -> Path:
    """Write all rows as one table; the suffix says how.

    Args:
        answers: The answers, complete.
        path: The file.

    Returns:
        The path.

    Raises:
        ValueError: If the suffix is unknown, or rows are missing.
        OSError: If the file cannot be written; an older one stays as it was.
    """
    path = Path(path)
    check_table(path)
    if not answers.complete:
        raise ValueError(
            f"{answers.folder.name} has {len(answers):,} of {answers.rows:,} rows; let the same command go on first"
        )
    kind, table = _FORMATS[path.suffix.lower()], survey_table(answers)
    if kind == "csv":
        write_bytes(path, _csv(answers, table))
        return path
    if kind == "fits":  # which knows ASCII alone
        lines = [line.encode("ascii", "replace").decode() for line in answers.summary().splitlines()]
        table.meta = {"comments": [part for line in lines for part in textwrap.wrap(line, _CARD)]}
    more: dict[str, Any] = {"path": "answers", "serialize_meta": True} if kind == "hdf5" else {}
    write_through(path, lambda temporary: table.write(temporary, format=kind, overwrite=True, **more))
    return path


def _csv(answers: Answers, table: QTable) -> bytes:
    text = io.StringIO()
    writer, written = csv.writer(text, lineterminator="\n"), {**answers.columns, "calibration": ""}
    writer.writerow([f"{name} [{unit}]" if unit else name for name, unit in written.items()])
    columns: list[np.ndarray] = [np.asarray(getattr(table[name], "value", table[name])) for name in written]
    writer.writerows(zip(*(column.astype(str) for column in columns), strict=True))
    return text.getvalue().encode()
