"""Where the answers of a run folder lie: `answers/NAME/`, one folder for each observation.

The name is that of the observation's file. Where an answer to *other* data has that name already, the new one gets a
name with the first digits of its data's hash, so that no answer replaces that of another observation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sciinf.core.files import read_json

ANSWERS = "answers"
_LONGEST = 80


def answer_folders(run: str | Path) -> dict[str, Path]:
    """The answers of a run folder: name -> folder, in the order of their names.

    A run folder of an earlier version holds one answer, beside the fit; it is called "answer".
    """
    run = Path(run)
    found = {f.parent.name: f.parent for f in sorted((run / ANSWERS).glob("*/answer.json"))}
    return {"answer": run, **found} if (run / "answer.json").is_file() else found


def answer_place(run: Path, name: str, values: str) -> Path:
    """The folder for an answer in a run folder.

    Args:
        run: The run folder.
        name: What the observation is called.
        values: SHA-256 of the observation's values.
    """
    folder = run / ANSWERS / name
    if not (folder / "answer.json").is_file():
        return folder
    try:
        known = read_json(folder / "answer.json")["values_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder  # damaged: there is no answer to keep
    return folder if known == values else run / ANSWERS / f"{name}-{values[:8]}"


def observation_name(paths: Sequence[str | Path]) -> str:
    """What an observation is called: its file without the ending, or its files joined by "+"."""
    names = [Path(path).name.split(".")[0] or Path(path).name for path in paths]
    return re.sub(r"[^\w+@=-]", "_", "+".join(names))[:_LONGEST].strip("_") or "observation"
