"""Make and find run folders, and print notes on what an answer or a report lacks."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from sciinf.core.telling import DETAIL, keep_log, tell


def run_folder(out: str | Path) -> Path:
    """Return the run folder, made if necessary; from now on the log is written into it.

    Raises:
        OSError: If the folder cannot be made or written.
    """
    from sciinf.core.files import local_path, sweep, versions

    folder = local_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # The file has no name, so two commands may test the folder at once.
            pass
        for place in (folder, *folder.glob("*/"), *folder.glob("answers/*/")):
            sweep(place)
    except OSError as error:
        raise OSError(
            f"cannot write to the run folder {folder}: {error.strerror or error}; choose another one (--out)"
        ) from error
    keep_log(folder)
    tell(", ".join(f"{name} {version}" for name, version in versions().items()), DETAIL)
    return folder


def run_of(folder: str) -> str:
    """Path of the run folder, also if the user named the folder of its fit.

    Raises:
        FileNotFoundError: If the folder is not a run but holds runs. The message names them.
    """
    from sciinf.core.files import local_path

    path = local_path(folder)
    fits = ("fit.json", "fit/fit.json", "member_0/fit.json")
    runs = [] if any((path / fit).is_file() for fit in fits) else sorted(path.glob("*/fit/fit.json"))
    if runs:
        names = [file.parents[1].name for file in runs]
        raise FileNotFoundError(
            f"{folder} is no run, but holds some: {', '.join(names[:30])}; name one of them: {runs[0].parents[1]}"
        )
    inside = path.name == "fit" and (path / "fit.json").is_file()
    return str(path.parent) if inside else folder


def tell_what_lacks(folder: Path, without: str) -> None:
    """Print what an answer lacks if no simulator was used, and why none was used."""
    from sciinf.core.files import read_json
    from sciinf.interfaces.run_answers import answer_folders

    if not without:
        return
    corrected = False
    for inside in answer_folders(folder).values():
        with suppress(FileNotFoundError, ValueError, AttributeError):  # A damaged answer is passed over.
            corrected |= bool(read_json(inside / "answer.json").get("amortised"))
    lacks = "not corrected by the likelihood, nor " * corrected or "not "
    tell(
        f"note: this answer is {lacks}compared with data simulated from it, for no simulator is used: {without}. "
        "To use one, give --simulator SIM.py; and --accept-changes where a change does not touch what it simulates"
    )


def tell_report_is_older(folder: Path) -> None:
    """Print a note if the report is older than the present calibration of the run."""
    page = folder / "report.html"
    if page.is_file() and page.stat().st_mtime < (folder / "calibration.json").stat().st_mtime:
        tell(f"note: report.html does not show this calibration; renew it with `sciinf report {folder}`")
