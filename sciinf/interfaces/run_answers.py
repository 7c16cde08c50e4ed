"""Places of the answers in a run folder: `answers/NAME/`, one folder for each observation.

NAME is that of the observation's file. If an answer to *other* data already has that name, the new name also gets the
first digits of the hash of its data. So no answer replaces that of another observation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core import Answer
from sciinf.core.files import read_json, write_json
from sciinf.posteriors.refined import FILE as ROUNDS_FILE

ANSWERS = "answers"
REFINED, ROUNDS = "refined", "rounds"  # REFINED/NAME is a run folder; its folder ROUNDS holds its training rounds.
_PARTS = {
    "simulations": "simulations/store.json",
    "a fit": "fit/fit.json",
    "a calibration": "calibration.json",
    "answers": "answers/*/answer.json",
}
_LONGEST = 80


def answer_folders(run: str | Path) -> dict[str, Path]:
    """The answers of a run folder: name -> folder, in the order of their names.

    A run folder of an earlier version holds one answer, beside the fit. That answer is called "answer".
    """
    run = Path(run)
    found = {f.parent.name: f.parent for f in sorted((run / ANSWERS).glob("*/answer.json"))}
    return {"answer": run, **found} if (run / "answer.json").is_file() else found


def newest_answers(run: str | Path) -> dict[str, Path]:
    """The newest answers of a run folder: name -> folder, with refined answers in place of the answers they refine.

    Answers that were refined from another network than the run has now are left out.
    """
    found = answer_folders(run)
    for folder in refined_folders(run).values():
        found |= answer_folders(folder)
    return dict(sorted(found.items()))


def refined_folders(run: str | Path) -> dict[str, Path]:
    """Folders of the answers that were refined from the network that a run has now: name of the observation -> folder.

    A folder without a calibration is left out: it is unfinished, or its round confirmed the run's own answer.
    """
    found = {}
    for folder in sorted((Path(run) / REFINED).glob("*/")):
        try:
            first = read_json(folder / ROUNDS / ROUNDS_FILE)["first"]
            whole = (folder / "calibration.json").is_file()
            if whole and first == read_json(Path(run) / "fit" / "fit.json")["digest"]:
                found[folder.name] = folder
        except (OSError, ValueError, KeyError, TypeError):
            continue  # An unfinished or damaged folder is left out: the run's own answer is still there.
    return found


def point_to_refined(run: Path, name: str, refined: Path, there: str) -> None:
    """Write the place of the refined answer into the `answer.json` of the run's own answer, as `refined`.

    Args:
        run: The run folder.
        name: Name of the answer in the run folder.
        refined: Folder of the refined answer, within `run`.
        there: Name of the answer in the folder `refined`.

    Raises:
        OSError: If `answer.json` cannot be written.
        ValueError: If `answer.json` is damaged.
    """
    file = run / ANSWERS / name / "answer.json"
    write_json(file, {**read_json(file), REFINED: (refined / ANSWERS / there).relative_to(run).as_posix()})


def keep_checks(run: Path, answer: Answer) -> None:
    """Write the present findings and verdict of an answer into its `answer.json` in a run folder.

    Args:
        run: The run folder.
        answer: The answer, with its present findings.

    Raises:
        OSError: If `answer.json` cannot be written.
        ValueError: If `answer.json` is damaged.
    """
    file = run / ANSWERS / answer.name / "answer.json"
    checks = [check.to_json() for check in answer.checks]
    write_json(file, {**read_json(file), **answer.verdict.to_json(), "checks": checks})


def found_in(run: str | Path) -> str:
    """Words that say which parts a run folder holds, for a message that something is missing from it."""
    run = Path(run)
    if not run.is_dir():
        return f"there is no folder {run}"
    found = [name for name, file in _PARTS.items() if any(run.glob(file))]
    if found:
        return f"it holds {', '.join(found)}"
    return "it is no run folder, for it holds none of simulations, fit, calibration and answers"


def answer_place(run: Path, name: str, values: str) -> Path:
    """Choose the folder in which an answer is saved in a run folder.

    Args:
        run: The run folder.
        name: Name of the observation.
        values: SHA-256 of the observation's values.
    """
    folder = run / ANSWERS / name
    if not (folder / "answer.json").is_file():
        return folder
    try:
        known = read_json(folder / "answer.json")["values_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder  # A damaged file holds no answer that must be kept.
    return folder if known == values else run / ANSWERS / f"{name}-{values[:8]}"


def values_digest(observation: Mapping[str, Any]) -> str:
    """SHA-256 of the values of an observation; a leading axis of length one makes no difference.

    Args:
        observation: Observable name -> array or tensor.
    """
    digest = hashlib.sha256()
    for name in sorted(observation):
        digest.update(name.encode() + np.asarray(observation[name]).tobytes())
    return digest.hexdigest()


def observation_name(paths: Sequence[str | Path]) -> str:
    """Name of an observation: the name of its file without the ending, or the names of its files joined by "+"."""
    names = [Path(path).name.split(".")[0] or Path(path).name for path in paths]
    return re.sub(r"[^\w+@=-]", "_", "+".join(names))[:_LONGEST].strip("_") or "observation"
