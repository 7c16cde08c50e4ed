"""Answers to many observations as one table: `.ecsv`, `.fits`, `.h5` (or `.hdf5`), `.csv`. The table is in memory.

Each observation has a row, in order; a row without an answer holds NaN. The columns are those of `Answers.columns`,
with units, and `calibration`. The column `calibration` has the verdict on the network, the same in each row, so that no
reader misses it. The summary of all answers is in `.meta`. A `.csv` has no summary, and its header has the units as
`name [unit]`.
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

_CARD = 70  # Largest number of characters in a comment line in FITS.
_FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".h5": "hdf5", ".hdf5": "hdf5", ".csv": "csv"}


def survey_table(answers: Answers) -> QTable:
    """All rows as a QTable, in which each column with a unit is a quantity."""
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
    """Refuse a path whose suffix is no known kind of table, or whose folder does not exist.

    Args:
        path: Path of the table.
        made: A folder that need not exist yet, because it will be made.

    Raises:
        ValueError: If the suffix is unknown, or the folder neither exists nor is `made`.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: unknown kind of table; expected one of {', '.join(_FORMATS)}")
    if not path.parent.is_dir() and (made is None or path.parent.resolve() != Path(made).resolve()):
        raise ValueError(f"{path}: the folder {path.parent} does not exist")


def write_answers(answers: Answers, path: str | Path) -> Path:
    """Write all rows as one table, in the format that the suffix names.

    Args:
        answers: The answers to all observations; none may be missing.
        path: Path of the table.

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
            f"{answers.folder.name} has {len(answers):,} of {answers.rows:,} rows; run the same command again first"
        )
    kind, table = _FORMATS[path.suffix.lower()], survey_table(answers)
    if kind == "csv":
        write_bytes(path, _csv(answers, table))
        return path
    if kind == "fits":  # FITS allows only ASCII.
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
