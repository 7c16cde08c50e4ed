"""Functions by which a worker process answers questions about a model; each answer is a message of `wire`."""

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
    """Answer one question by itself, and return the answer as a message.

    Args:
        model: The model that is asked.
        x: The observation, with the record of how it was read.
        wanted: Options of the query.

    Raises:
        ValueError: For the same reasons as `query`.
    """
    asked, question = model.question(x, wanted)
    where = asked.folder.relative_to(model.folder).as_posix()
    if (found := stored_answer(model, question, where)) is not None:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The findings of the answer hold all that these warnings say.
        answer = question.answer(question.look())
    return answered(model, question, model.learned.retold(asked, x, answer), where)


def stored_answer(model: Model, question: Question, where: str) -> bytes | None:
    """The run folder's stored answer to a question, as a message; None if there is none.

    The message takes the observation's name and files, and how it was read, from the question.

    Args:
        model: The model that is asked.
        question: The question.
        where: Folder of the posterior that answers, relative to the run folder.
    """
    known, wanted = stored_answers(model, question), question.wanted
    if (found := same_question(known, wanted)) is None:
        return None
    told = {one.name for one in question.findings}
    checks = (*question.findings, *(one for one in found.answer.checks if one.name not in told))
    answer = replace(found.answer, name=wanted.name, files=wanted.files, read=question.read, checks=checks)
    return _message(model, with_findings(answer, known), where, found.question["seed"], stored=True)


def answered(model: Model, question: Question, answer: Answer, where: str) -> bytes:
    """Message of a new answer, completed by what the run folder knows about the observation.

    If checks by simulation were not requested, a finding of the answer says so.

    Args:
        model: The model that was asked.
        question: The question.
        answer: The answer.
        where: Folder of the posterior that answered, relative to the run folder.
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
    """Simulate data once, and return a message with the observables as arrays and the digest of the model.

    Args:
        model: The model whose simulator is used.
        body: JSON with `theta`, `seed` and `x`, as `requests.parameters` reads it.

    Raises:
        ValueError: For the same reasons as `requests.parameters`; or if there is no simulator, the simulation fails, or
            the simulator cannot take over the times and controls of x.
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
    """The observation that a message holds."""
    values = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    return Observation(values, head["read"], findings_in(head))


def wanted_in(head: Mapping[str, Any]) -> QueryOptions:
    """The query options that a message holds."""
    return QueryOptions(**head["wanted"])
