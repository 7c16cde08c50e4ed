"""What a second network said of an answer, kept beside its round: an answer that is made anew is told it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sciinf.asking import COMPARED, about_second, retold, undecided_in
from sciinf.core.files import write_json
from sciinf.storage.answers import keep_checks

if TYPE_CHECKING:
    from sciinf.core import Answer, Level, Observation, Posterior, X


def remember(
    folder: Path, first: Posterior, x: X, differs: tuple[float, float], simulations: int, own: Level | None
) -> None:
    """Keep by how much a second network's answer differs.

    Args:
        folder: Where its round lies.
        first: Of the first answer.
        x: The observation, name -> (1, *event).
        differs: By how much (`inference.changes`).
        simulations: That it was trained on.
        own: Level of its own local check; None where that was not needed.
    """
    about = about_second(first, x)
    write_json(folder / COMPARED, {**about, "differs": list(differs), "simulations": simulations, "own": own or ""})


def recall(run: Path, first: Posterior, x: Observation, answer: Answer, out: Path) -> Answer:
    """The answer, and its `answer.json`, with what a second network said of it, where one was asked.

    Args:
        run: The run folder.
        first: What answered.
        x: The observation.
        answer: The answer.
        out: The run folder that it lies in.
    """
    told = retold(run, first, x, answer)
    if told is not answer:
        keep_checks(out, told)
    return told


__all__ = ["recall", "remember", "undecided_in"]
