"""Draws as astropy tables with units, and their files: `.ecsv`, `.fits`, `.h5`, `.csv`.

Every table has one column per parameter and derived quantity, and the column `log_weight`. The description of a column
is its label, with "(derived)" for a derived quantity; a `.csv` has no descriptions. The column of a discrete parameter
holds labels as text. If a parameter does not exist in a draw, its entry is masked; in a `.csv`, the entry is empty.
Values are read back bit for bit. Units are read back exactly from `.ecsv`, `.fits` and `.h5` (`QTable.read`). A `.csv`
has no place for units, so its header has `name [unit]`: `sciinf` understands this, and other programs take it as the
column's name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinf.core.answer import Answer
from sciinf.core.containers import absent_in, columns_of
from sciinf.core.draws import Draws
from sciinf.core.files import write_bytes, write_through
from sciinf.core.tables import marked
from sciinf.interfaces.exports.contents import draws_of, facts

if TYPE_CHECKING:
    from astropy.table import QTable


def to_table(source: Answer | Draws) -> QTable:
    """Convert draws to a QTable, with one column per parameter and derived quantity, and the column `log_weight`.

    A column with a unit is a quantity, and a dimensionless one is plain. `.meta` holds the evidence and, from an
    answer, its verdict and findings.

    Raises:
        TypeError: If the source is neither an answer nor draws.
        ValueError: If a parameter is called `log_weight`.
    """
    from astropy import units
    from astropy.table import QTable

    draws = draws_of(source)
    if "log_weight" in draws.names:
        raise ValueError("a parameter is called 'log_weight', the name of the weights' column; rename it in the prior")
    table, columns = QTable(meta=facts(source)), columns_of(draws)
    for name, unit in zip(draws.names, draws.units, strict=True):
        values = _masked(columns[name])
        table[name] = values << units.Unit(unit) if unit else values
        about = marked(draws.labels.get(name, ""), name in draws.derived).strip()
        written: Any = table[name]
        written.info.description = about or None
    table["log_weight"] = draws.log_weight.detach().cpu().numpy()
    return table


def _masked(values: np.ndarray) -> Any:
    """A column for astropy, masked in those draws in which the parameter does not exist."""
    from astropy.table import MaskedColumn
    from astropy.utils.masked import Masked

    absent = absent_in(values)
    if values.dtype == object:
        text = np.where(absent, "", values).astype(str)
        return MaskedColumn(text, mask=absent) if absent.any() else text
    return Masked(values, mask=absent) if absent.any() else values


def write_table(source: Answer | Draws, path: str | Path) -> Path:
    """Write draws as a table, in the format of the suffix: `.ecsv`, `.fits`, `.h5` (or `.hdf5`), `.csv`.

    Returns:
        The path.

    Raises:
        ValueError: If the suffix is not in this list.
        OSError: If the file cannot be written; an older one stays as it was.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"{path}: unknown kind of table; expected one of {', '.join(_WRITERS)}")
    writer(source, path)
    return path


def _write_ecsv(source: Answer | Draws, path: Path) -> None:
    table = to_table(source)
    write_through(path, lambda temporary: table.write(temporary, format="ascii.ecsv", overwrite=True))


def _write_fits(source: Answer | Draws, path: Path) -> None:
    """Write draws as a FITS table; in its header, characters that are not ASCII become `?`.

    A FITS header has short upper-case keywords, each with one line of ASCII. Labels of discrete values must stay
    distinct, so labels that are not ASCII are refused.
    """
    labels = [label for one in draws_of(source).categories.values() for label in one.labels]
    if foreign := [label for label in labels if not label.isascii()]:
        raise ValueError(f"{path}: FITS knows ASCII alone, and there is the label {foreign[0]!r}; write .ecsv or .h5")
    table = to_table(source)
    plain = {
        key: " ".join(value.encode("ascii", "replace").decode().split()) if isinstance(value, str) else value
        for key, value in facts(source).items()
    }
    table.meta = {_FITS_KEYS[key]: value for key, value in plain.items()}
    write_through(path, lambda temporary: table.write(temporary, format="fits", overwrite=True))


def _write_h5(source: Answer | Draws, path: Path) -> None:
    """Write draws as an HDF5 table; without `serialize_meta`, units would be lost silently."""
    table = to_table(source)
    write_through(
        path, lambda temporary: table.write(temporary, format="hdf5", path="draws", serialize_meta=True, overwrite=True)
    )


def _write_csv(source: Answer | Draws, path: Path) -> None:
    draws = draws_of(source)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{name} [{unit}]" if unit else name for name, unit in zip(draws.names, draws.units, strict=True)]
    writer.writerow([*names, "log_weight"])
    columns = [*columns_of(draws).values(), draws.log_weight.detach().cpu().numpy()]
    writer.writerows(zip(*(np.where(absent_in(c), "", c.astype(str)) for c in columns), strict=True))
    write_bytes(path, text.getvalue().encode())


_FITS_KEYS = {
    "verdict": "VERDICT",
    "sentence": "SENTENCE",
    "findings": "FINDINGS",
    "surrogate": "SURROGAT",
    "effective_sample_size": "ESS",
    "log_evidence": "LOGEVID",
    "log_evidence_error": "LOGEVERR",
    "pareto_k": "PARETO_K",
    "calibration_passed": "CALPASS",
    "calibration": "CALIB",
    "calibration_of": "CALIB_OF",
    "trust": "TRUST",
    "trust_level": "TRUSTLEV",
    "trust_p_value": "TRUST_P",
}
_WRITERS: dict[str, Callable[[Answer | Draws, Path], None]] = {
    ".ecsv": _write_ecsv,
    ".fits": _write_fits,
    ".h5": _write_h5,
    ".hdf5": _write_h5,
    ".csv": _write_csv,
}
