"""What a second network said of an answer, kept beside its round: an answer that is made anew is told it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sciinf.core import as_observation
from sciinf.core.files import read_json, write_json
from sciinf.inference.changes import changes_from_json
from sciinf.inference.truncated import observation_hash
from sciinf.storage.answers import REFINED, replace_checks
from sciinf.trust.second import compared, decides, undecided, wrong_on_average

if TYPE_CHECKING:
    from sciinf.core import Answer, Check, Observation, Posterior, X

_FILE = "compared.json"


def undecided_in(answer: Answer) -> Check | None:
    """The local check of an answer where a second network has to tell whether that is right, and has not."""
    return next(filter(undecided, answer.checks), None)


def remember(folder: Path, first: Posterior, x: X, differs: tuple[float, float], simulations: int, own: str) -> None:
    """Keep by how much a second network's answer differs.

    Args:
        folder: Where its round lies.
        first: Of the first answer.
        x: The observation, name -> (1, *event).
        differs: By how much (`inference.changes`).
        simulations: That it was trained on.
        own: Level of its own local check, "" where that was not needed.
    """
    about = {"first": first.digest, "observation": observation_hash(x)}
    write_json(folder / _FILE, {**about, "differs": list(differs), "simulations": simulations, "own": own})


def recall(run: Path, first: Posterior, x: Observation, answer: Answer, out: Path) -> Answer:
    """The answer, and its `answer.json`, with what a second network said of it, where one was asked.

    Args:
        run: The run folder.
        first: What answered.
        x: The observation.
        answer: The answer.
        out: The run folder that it lies in.
    """
    check = undecided_in(answer)
    if check is None or wrong_on_average(answer.calibration):
        return answer
    about = {"first": first.digest, "observation": observation_hash(as_observation(first.observables, x))}
    for file in sorted((run / REFINED).glob(f"*/{_FILE}")):
        said = read_json(file)
        if {key: said.get(key) for key in about} != about:
            continue
        differs, own = changes_from_json(said["differs"]), said.get("own", "")
        if decides(check, differs, own):
            told = compared(check, differs, said["simulations"], own)
            checks = [told if one is check else one for one in answer.checks]
            replace_checks(out, answer.name, checks)
            return replace(answer, checks=tuple(checks))
    return answer
