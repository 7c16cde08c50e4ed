"""Answers to questions about a model, as messages: what the worker does with one question at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sciinf.core import Answer, Observation
from sciinf.core.simulator import as_seen
from sciinf.engine.block import generator_for, simulate_from
from sciinf.question import Wanted
from sciinf.serve.models import Model, Models
from sciinf.serve.wire import answer_out, pack

Values = Mapping[str, np.ndarray]
"""Observable name -> array (*event)."""


def whole_answer(model: Model, x: Observation, wanted: Wanted) -> bytes:
    """The answer to one question, by itself, as a message.

    Args:
        model: What is asked.
        x: The observation, which knows how it was read.
        wanted: What is asked for.

    Raises:
        ValueError: As `query` does.
    """
    asked, question = model.question(x, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer says all that it warns of
        answer = question.answer(question.look())
    return answered(model, model.learned.retold(asked, x, answer), asked.folder.relative_to(model.folder).as_posix())


def answered(model: Model, answer: Answer, where: str) -> bytes:
    """An answer as a message.

    Args:
        model: What was asked.
        answer: The answer.
        where: The folder of what answered, within the run's.
    """
    head, arrays = answer_out(answer)
    return pack({**head, "where": where, "digest": model.digest}, arrays)


def simulated(models: Models, name: str, theta: Mapping[str, float], seed: int, x: Values) -> bytes:
    """Data of one simulation, as a message whose arrays are the observables, with the digest of what made them.

    Args:
        models: What is served.
        name: Of the run.
        theta: Parameter -> value in the prior's unit; a discrete one's number, None for what does not exist.
        seed: Seeds the simulation.
        x: The observation that the data are to be seen as, where the simulator has `Simulator.like`; else empty.

    Raises:
        NotReady: If the simulator has changed since the service began.
        ValueError: If there is no simulator, the simulation fails, or nothing can be seen as x was.
    """
    model = models.get(name)
    if model.simulator is None:
        raise ValueError(f"{name} has no simulator")
    prior = model.prior
    given = [math.nan if theta[parameter] is None else theta[parameter] for parameter in prior.names]
    values = torch.tensor([given], dtype=prior.dtype)
    seen = as_seen(model.simulator, {key: torch.from_numpy(np.array(value))[None] for key, value in x.items()})
    data, good = simulate_from(seen, values, generator=generator_for(seed))
    if not bool(good.all()):
        raise ValueError("the simulation failed at these parameters")
    return pack({"digest": model.digest}, {key: value[0].numpy() for key, value in data.items()})


def observation_in(head: Mapping[str, Any], arrays: Values) -> Observation:
    """The observation of a message."""
    return Observation({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}, head["read"])


def wanted_in(head: Mapping[str, Any]) -> Wanted:
    """What a message asks for."""
    return Wanted(**head["wanted"])
