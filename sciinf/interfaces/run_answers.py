"""Where the answers of a run folder lie: `answers/NAME/`, one folder for each observation.

The name is that of the observation's file. Where an answer to *other* data has that name already, the new one gets a
name with the first digits of its data's hash, so that no answer replaces that of another observation.
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
REFINED, ROUNDS = "refined", "rounds"  # REFINED/NAME is a run folder; its ROUNDS are what it learned from
_PARTS = {
    "simulations": "simulations/store.json",
    "a fit": "fit/fit.json",
    "a calibration": "calibration.json",
    "answers": "answers/*/answer.json",
}
_LONGEST = 80


def answer_folders(run: str | Path) -> dict[str, Path]:
    """The answers of a run folder: name -> folder, in the order of their names.

    A run folder of an earlier version holds one answer, beside the fit; it is called "answer".
    """
    run = Path(run)
    found = {f.parent.name: f.parent for f in sorted((run / ANSWERS).glob("*/answer.json"))}
    return {"answer": run, **found} if (run / "answer.json").is_file() else found


def newest_answers(run: str | Path) -> dict[str, Path]:
    """The answers of a run folder as `answer_folders` has them, those that were refined in place of what they were.

    What was refined from another network than the run has now is left out.
    """
    found = answer_folders(run)
    for folder in refined_folders(run).values():
        found |= answer_folders(folder)
    return dict(sorted(found.items()))


def refined_folders(run: str | Path) -> dict[str, Path]:
    """What was refined from the network that a run has now: the name of each observation -> its folder.

    Without a calibration it is unfinished, or it is a round that confirmed the answer there was.
    """
    found = {}
    for folder in sorted((Path(run) / REFINED).glob("*/")):
        try:
            first = read_json(folder / ROUNDS / ROUNDS_FILE)["first"]
            whole = (folder / "calibration.json").is_file()
            if whole and first == read_json(Path(run) / "fit" / "fit.json")["digest"]:
                found[folder.name] = folder
        except (OSError, ValueError, KeyError, TypeError):
            continue  # unfinished or damaged: the answer before it is still there
    return found


def point_to_refined(run: Path, name: str, refined: Path, there: str) -> None:
    """Let the answer of a run's own network say where the one is that was refined: `refined` in its `answer.json`.

    Args:
        run: The run folder.
        name: What the answer is called in it.
        refined: The folder of the refined one, within `run`.
        there: What the answer is called in that.

    Raises:
        OSError: If it cannot be written.
        ValueError: If `answer.json` is damaged.
    """
    file = run / ANSWERS / name / "answer.json"
    write_json(file, {**read_json(file), REFINED: (refined / ANSWERS / there).relative_to(run).as_posix()})


def keep_checks(run: Path, answer: Answer) -> None:
    """Let the `answer.json` of a run folder say what is found of an answer by now, and its verdict.

    Args:
        run: The run folder.
        answer: The answer.

    Raises:
        OSError: If it cannot be written.
        ValueError: If `answer.json` is damaged.
    """
    file = run / ANSWERS / answer.name / "answer.json"
    checks = [check.to_json() for check in answer.checks]
    write_json(file, {**read_json(file), **answer.verdict.to_json(), "checks": checks})


def found_in(run: str | Path) -> str:
    """What a run folder holds, in words for the message that something is missing from it."""
    run = Path(run)
    if not run.is_dir():
        return f"there is no folder {run}"
    found = [name for name, file in _PARTS.items() if any(run.glob(file))]
    if found:
        return f"it holds {', '.join(found)}"
    return "it is no run folder, for it holds none of simulations, fit, calibration and answers"


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


def values_digest(observation: Mapping[str, Any]) -> str:
    """SHA-256 of the values of an observation, with a leading axis of one or without.

    Args:
        observation: Observable name -> array or tensor.
    """
    digest = hashlib.sha256()
    for name in sorted(observation):
        digest.update(name.encode() + np.asarray(observation[name]).tobytes())
    return digest.hexdigest()


def observation_name(paths: Sequence[str | Path]) -> str:
    """What an observation is called: its file without the ending, or its files joined by "+"."""
    names = [Path(path).name.split(".")[0] or Path(path).name for path in paths]
    return re.sub(r"[^\w+@=-]", "_", "+".join(names))[:_LONGEST].strip("_") or "observation"
