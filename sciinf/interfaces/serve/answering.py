"""Answers to questions about a model, as messages: what the worker does with one question at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sciinf.campaigns.block import generator_for, simulate_from
from sciinf.core import Answer, Observation
from sciinf.core.simulator import as_seen
from sciinf.diagnostics import predictive
from sciinf.interfaces.question import QueryOptions, Question
from sciinf.interfaces.serve.models import Model
from sciinf.interfaces.serve.requests import parameters
from sciinf.interfaces.serve.stored import not_made, same_question, stored_answers, with_findings
from sciinf.interfaces.serve.wire import answer_out, findings_in, pack

Values = Mapping[str, np.ndarray]
"""Observable name -> array (*event)."""


def whole_answer(model: Model, x: Observation, wanted: QueryOptions) -> bytes:
    """The answer to one question, by itself, as a message.

    Args:
        model: What is asked.
        x: The observation, which knows how it was read.
        wanted: What is asked for.

    Raises:
        ValueError: As `query` does.
    """
    asked, question = model.question(x, wanted)
    where = asked.folder.relative_to(model.folder).as_posix()
    if (found := stored_answer(model, question, where)) is not None:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer says all that it warns of
        answer = question.answer(question.look())
    return answered(model, question, model.learned.retold(asked, x, answer), where)


def stored_answer(model: Model, question: Question, where: str) -> bytes | None:
    """The answer to a question that the run folder has, as a message; None where it has none.

    It is called, and was read, as the question says.

    Args:
        model: What is asked.
        question: The question.
        where: The folder of what answers, within the run's.
    """
    known, wanted = stored_answers(model, question), question.wanted
    if (found := same_question(known, wanted)) is None:
        return None
    told = {one.name for one in question.findings}
    checks = (*question.findings, *(one for one in found.answer.checks if one.name not in told))
    answer = replace(found.answer, name=wanted.name, files=wanted.files, read=question.read, checks=checks)
    return _message(model, with_findings(answer, known), where, found.question["seed"], stored=True)


def answered(model: Model, question: Question, answer: Answer, where: str) -> bytes:
    """An answer that was made, with what the run folder knows of the observation, as a message.

    Where checks by simulation were not asked for, it says so.

    Args:
        model: What was asked.
        question: The question.
        answer: The answer.
        where: The folder of what answered, within the run's.
    """
    if not question.wanted.predicted:
        checks = [one for one in answer.checks if one.name != predictive.NAME]
        answer = replace(answer, checks=(*checks, not_made(model)))
    answer = with_findings(answer, stored_answers(model, question))
    return _message(model, answer, where, question.wanted.seed, stored=False)


def _message(model: Model, answer: Answer, where: str, seed: int, *, stored: bool) -> bytes:
    head, arrays = answer_out(answer)
    return pack({**head, "where": where, "digest": model.digest, "seed": seed, "stored": stored}, arrays)


def simulated(model: Model, body: bytes) -> bytes:
    """Data of one simulation, as a message whose arrays are the observables, with the digest of what made them.

    Args:
        model: What is asked.
        body: JSON with `theta`, `seed` and `x`, as `requests.parameters` reads it.

    Raises:
        ValueError: As `requests.parameters` does; or if there is no simulator, the simulation fails, or nothing can be
            seen as x was.
    """
    if model.simulator is None:
        raise ValueError(f"{model.name} has no simulator")
    theta, seed, x = parameters(body, model)
    values = torch.tensor([[theta[name] for name in model.prior.names]], dtype=model.prior.dtype)
    seen = as_seen(model.simulator, {key: torch.from_numpy(np.array(value))[None] for key, value in x.items()})
    data, good = simulate_from(seen, values, generator=generator_for(seed))
    if not bool(good.all()):
        raise ValueError("the simulation failed at these parameters")
    return pack({"digest": model.digest}, {key: value[0].numpy() for key, value in data.items()})


def observation_in(head: Mapping[str, Any], arrays: Values) -> Observation:
    """The observation of a message."""
    values = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    return Observation(values, head["read"], findings_in(head))


def wanted_in(head: Mapping[str, Any]) -> QueryOptions:
    """What a message asks for."""
    return QueryOptions(**head["wanted"])
