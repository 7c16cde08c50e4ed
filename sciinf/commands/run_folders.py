"""The folder of a run: made, found, and what a question changes in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sciinf.telling import DETAIL, keep_log, tell


def run_folder(out: str | Path) -> Path:
    """The run folder, made if need be; from now on the log lies in it.

    Raises:
        OSError: If it cannot be made or written.
    """
    from sciinf.core.files import local_path, sweep, versions

    folder = local_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # has no name, so that two commands may look at once
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
    """The run folder, also where its fit was named.

    Raises:
        FileNotFoundError: If it is a folder of runs; the message names them.
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


def tell_what_changes(folder: Path, without: str, out: Path | None) -> None:
    """What a question without a simulator lacks and why there is none, and what the report does not show yet."""
    from sciinf.core.files import read_json
    from sciinf.storage.answers import answer_folders

    corrected, newest = False, 0.0
    for inside in answer_folders(folder).values():
        try:
            corrected |= bool(read_json(inside / "answer.json").get("amortised"))
            newest = max(newest, (inside / "answer.json").stat().st_mtime)
        except (FileNotFoundError, ValueError, AttributeError):
            continue  # a damaged one, which says nothing
    if without:
        lacks = "not corrected by the likelihood, nor " * corrected or "not "
        tell(
            f"note: this answer is {lacks}compared with data simulated from it, for no simulator is used: {without}. "
            "To use one, give --simulator SIM.py; and --accept-changes where a change does not touch what it simulates"
        )
    if out is None:
        _tell_stale(folder, newest, "answer")


def tell_report_is_older(folder: Path) -> None:
    """Say where the report shows another calibration than the run has now."""
    _tell_stale(folder, (folder / "calibration.json").stat().st_mtime, "calibration")


def _tell_stale(folder: Path, written: float, what: str) -> None:
    page = folder / "report.html"
    if page.is_file() and page.stat().st_mtime < written:
        tell(f"note: report.html does not show this {what}; renew it with `sciinf report {folder}`")
