"""Answers that the run folder holds: what was found of an observation is said whenever it is asked about again.

A question that the run has answered is answered by that answer. One that differs in level, seed or number of draws, or
asks for checks that were not made, is answered anew. The new answer then takes over the findings of the stored one that
it lacks. So the service says of these data no less than the run folder does, also without the simulator.
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
_OF_ITS_DRAWS = ("few draws", "stray draws", "draws", "hidden paths")  # findings that hold for one answer's draws alone


@dataclass(frozen=True)
class Stored:
    """An answer in the run folder.

    Args:
        answer: The answer.
        question: Level, draws, seed and failures that were asked for; empty where an earlier version wrote it.
    """

    answer: Answer
    question: Mapping[str, Any]


def stored_answers(model: Model, question: Question) -> list[Stored]:
    """The answers to a question's observation by the network that answers it now; damaged ones are left out.

    An answer that was given before the network was calibrated anew has its findings, and no question.
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
    """The stored answer to the same question.

    The defaults of seed and draws stand for those of the stored answer. Checks by simulation need the local check.
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
    """An answer with the findings of stored ones that it lacks, by name, in their order; and with their predictions."""
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
    """The finding that stands for checks by simulation where they were not asked for."""
    way_out = "ask for checks, which take seconds" if model.simulator else "the service has no simulator to tell"
    words = f"not checked whether the model reproduces these data; {way_out}"
    return Finding("predictive", Level.UNKNOWN, words, NOT_MADE)


def checked_here(finding: Finding) -> bool:
    """Whether a finding is that of a local check which was made."""
    return finding.name == NAME and finding.kind != Kind.UNCHECKED
