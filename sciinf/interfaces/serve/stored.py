"""Answers in the run folder: findings about an observation are reported again whenever it is asked about again.

If the run has answered a question, the stored answer is returned. A question gets a new answer if it differs in level,
seed or number of draws, or requests checks that were not made. The new answer then takes over the findings of the
stored answer that it lacks. So the service reports no less about these data than the run folder does, even without the
simulator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sciinf.core import Answer, Finding, Level
from sciinf.core.files import read_json
from sciinf.core.records import said_of
from sciinf.diagnostics.right import NAME, Kind
from sciinf.interfaces.answer import load_answer
from sciinf.interfaces.question import QueryOptions, Question
from sciinf.interfaces.serve.models import Model
from sciinf.interfaces.serve.requests import DRAWS
from sciinf.posteriors.tilted import layers

NOT_MADE = "not made"
"""The kind of the finding that checks by simulation were not asked for."""
# These findings hold only for the draws of one answer.
_OF_ITS_DRAWS = ("few draws", "stray draws", "draws", "hidden paths")


@dataclass(frozen=True)
class Stored:
    """An answer in the run folder.

    Args:
        answer: The answer.
        question: Level, draws, seed and failures that were asked for. Empty if an earlier version wrote the answer, or
            if the network was calibrated anew since.
    """

    answer: Answer
    question: Mapping[str, Any]


def stored_answers(model: Model, question: Question) -> list[Stored]:
    """Stored answers to a question's observation by the network that answers now; damaged answers are left out.

    An answer that is older than the network's calibration keeps its findings, but its `question` is empty.
    """
    networks, found = {layer.digest for layer in layers(question.posterior)}, []
    for folder in model.folders_of(question.x):
        try:
            said = read_json(folder / "answer.json")
            asked = said.get("question", {})
            if asked.get("fit", said["calibration"]["fit"]) not in networks:
                continue
            answer = load_answer(folder, question.judge.calibration)
            same = said["calibration"] == said_of(question.judge.calibration)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        found.append(Stored(answer, asked if same else {}))
    return found


def same_question(known: Iterable[Stored], wanted: QueryOptions) -> Stored | None:
    """The stored answer to the same question; None if there is none.

    A seed or number of draws that is the default matches that of any stored answer. If checks by simulation are
    requested, the stored answer must have the local check.
    """
    for one in known:
        asked = one.question
        same = asked and (asked["level"], asked["failures"]) == (wanted.level, wanted.failures)
        same = same and wanted.seed in (asked["seed"], QueryOptions.seed)
        same = same and wanted.draws in (asked["draws"], DRAWS, QueryOptions.draws)
        if same and not (wanted.predicted and not any(map(checked_here, one.answer.checks))):
            return one
    return None


def with_findings(answer: Answer, known: Iterable[Stored]) -> Answer:
    """Add to an answer the findings and predictions of stored answers that it lacks.

    Findings are matched by name, and stand in the order of the stored answer.
    """
    for other in (one.answer for one in known):
        names = {one.name for one in answer.checks if one.kind not in (Kind.UNCHECKED, NOT_MADE)} | {*_OF_ITS_DRAWS}
        more = [one for one in other.checks if one.name not in names]
        order = {one.name: k for k, one in reversed([*enumerate(other.checks)])}
        checks = [*(one for one in answer.checks if one.name not in {each.name for each in more}), *more]
        checks.sort(key=lambda one, place=order: place.get(one.name, len(place)))
        where = answer.trust.where or other.trust.where
        answer = replace(answer, checks=tuple(checks), trust=replace(answer.trust, where=where))
        if not answer.predictive:
            answer = replace(answer, predictive=other.predictive, predicted_from=other.predicted_from)
    return answer


def not_made(model: Model) -> Finding:
    """The finding that says that no checks by simulation were requested."""
    way_out = "ask for checks, which take seconds" if model.simulator else "the service has no simulator to tell"
    words = f"not checked whether the model reproduces these data; {way_out}"
    return Finding("predictive", Level.UNKNOWN, words, NOT_MADE)


def checked_here(finding: Finding) -> bool:
    """Whether a finding is the result of the local check, and the check was really made."""
    return finding.name == NAME and finding.kind != Kind.UNCHECKED
