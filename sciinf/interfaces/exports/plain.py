"""Writes draws to a file, in the format that its suffix names, and reads them back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sciinf.core.answer import Answer
from sciinf.core.draws import Draws
from sciinf.core.observable import Observable
from sciinf.interfaces.draws_file import read_draws_h5, write_draws_h5
from sciinf.interfaces.exports.arviz_layout import write_netcdf
from sciinf.interfaces.exports.astropy_table import write_table
from sciinf.interfaces.exports.bilby_json import write_bilby
from sciinf.interfaces.exports.contents import draws_of
from sciinf.interfaces.exports.getdist_text import write_getdist

KNOWN = (".h5", ".hdf5", ".nc", ".ecsv", ".fits", ".csv", ".json", "_1.txt")


def check_kind(path: str | Path) -> None:
    """Refuse a path whose ending is no known format of draws.

    Raises:
        ValueError: If the file's name ends in none of `KNOWN`.
    """
    name = Path(path).name.lower()
    if name.endswith(".txt") and not name.endswith("_1.txt"):
        raise ValueError(f"{path}: getdist takes chains called ROOT_1.txt; name it {Path(path).stem}_1.txt")
    if not name.endswith(KNOWN):
        raise ValueError(f"{path}: unknown kind of file; expected one of {', '.join(KNOWN)}")


def write_draws(source: Answer | Draws, path: str | Path, observables: Mapping[str, Observable] | None = None) -> Path:
    """Write draws to a file, in the format that its suffix names.

    `.h5` is the format of `draws.h5` in a run folder (`interfaces.draws_file`), and `.nc` is arviz's InferenceData
    layout. `.ecsv`, `.fits` and `.csv` are tables (`sciinf.interfaces.exports.astropy_table`). `.json` is a result of
    bilby. `ROOT_1.txt` is a chain of getdist, with ROOT.paramnames, ROOT.ranges and ROOT.properties.ini beside it.

    Args:
        source: An answer or its draws.
        path: Path of the file.
        observables: The simulator's observables, for the units and axes of the data in `.nc`; by default those of the
            answer.

    Returns:
        The path.

    Raises:
        ValueError: If the suffix is unknown.
        OSError: If the file cannot be written; an older file stays as it was.
    """
    path = Path(path)
    check_kind(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return write_bilby(source, path, label=path.stem.removesuffix("_result"))
    if suffix == ".txt":
        write_getdist(source, path.with_name(path.name[: -len("_1.txt")]))
        return path
    if suffix in (".h5", ".hdf5"):
        about = source.verdict.to_json() if isinstance(source, Answer) else {}
        return write_draws_h5(draws_of(source), path, about)
    if suffix == ".nc":
        return write_netcdf(source, path, observables=observables)
    return write_table(source, path)


def read_draws(path: str | Path) -> Draws:
    """Read draws, bit for bit, from an `.h5` file that `write_draws` or a run wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, or is damaged.
    """
    path = Path(path)
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise ValueError(f"{path}: draws are read back from .h5 only; the other kinds are for other programs")
    return read_draws_h5(path)
