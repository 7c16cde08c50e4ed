"""Where the results in a folder came from, of a run or of a survey: versions, command, seeds, digests, seconds."""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciinf.commands.remembered import OPTIONS, simulator_mark
from sciinf.core.files import read_json, versions
from sciinf.storage.answers import answer_folders
from sciinf.store import Store
from sciinf.surveys.description import KIND, NAME

if TYPE_CHECKING:
    from sciinf.core import Simulator


def provenance(
    folder: Path,
    seed: int,
    started: float,
    asked: str,
    simulator: Simulator | None = None,
    way_on: str | None = None,
) -> dict[str, Any]:
    """The content of `provenance.json`: the latest command, and under "history" all that worked on the folder.

    Args:
        folder: The run folder, with everything but the report in it; or a folder of answers to many observations.
        seed: The run's.
        started: Seconds since 1970.
        asked: The command, or the call, in words.
        simulator: What it was done with, if anything; else the one that is remembered stays.
        way_on: What was said to do next, "" for nothing; where it is None, what was said before stays.
    """
    before = _read(folder / "provenance.json")
    step = {
        "versions": versions(),
        "command": asked,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }
    data: dict[str, Any] = {
        **step,
        **simulator_mark(simulator, before),
        OPTIONS: before.get(OPTIONS, {}),
        "next": str(before.get("next", "")) if way_on is None else way_on,
        "history": [*before.get("history", []), step],
        "seeds": {},
        "digests": {},
        "seconds": {"total": time.time() - started},
    }
    for name in ("simulations", "calibration_simulations"):
        if (folder / name / "store.json").is_file():
            store = Store(folder / name)
            data["seeds"][name], data["seconds"][name] = store.seed, store.seconds
    files = {"fit": folder / "fit" / "fit.json", "calibration": folder / "calibration.json"}
    answers = answer_folders(folder)
    for name, inside in answers.items():
        files["answer" if len(answers) == 1 else f"answer {name}"] = inside / "answer.json"
    for name, file in files.items():
        if file.is_file():
            found = _read(file)
            if not found:
                continue
            data["seconds"][name] = found.get("seconds")
            data["digests"][name] = found.get("digest") or found.get("inputs")
            # each step has hashed what it read; hashing all simulations again would make every question wait
            if name == "fit":
                data["digests"]["simulations"] = found["store"]["digest"]
            if name == "calibration":
                data["digests"]["calibration_simulations"] = found["simulations"]
    return _of_survey(data, _read(folder / NAME))


def _of_survey(data: dict[str, Any], survey: dict[str, Any]) -> dict[str, Any]:
    """What is also said where the folder holds answers to many observations: which run answered, and what."""
    if survey.get("kind") != KIND:
        return data
    digests = {
        "fit": survey["fit"],
        "calibration": survey["calibration_sha256"],
        "observations": survey["observations_sha256"],
        "survey": survey["survey"],
        "answers": survey.get("found", {}).get("digest"),
    }
    asked = {"run": survey["run"], "observations": survey["observations"]}
    return {**data, **asked, "digests": {**data["digests"], **digests}}


def _read(file: Path) -> dict[str, Any]:
    """What a file says; a damaged one has nothing to say, with a warning."""
    try:
        found = read_json(file)
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"provenance.json says nothing of {file.name}, which cannot be read: {error}", stacklevel=1)
        return {}
