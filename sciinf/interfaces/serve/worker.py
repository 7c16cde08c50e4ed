r"""What runs in a worker process: questions come over a pipe, and answers go back.

There are three lanes, each a process of its own. In the lane "fused" draws of many questions are made together
(`fusion`), and it never does anything else. Whatever takes long, or cannot be fused, goes one by one through the lane
"whole": checks by the simulator, refined and corrected answers, other estimators, what-if. Files and large bodies are
read in the lane "reading".

Messages are those of `wire`. To the worker: `answer`, `simulate`, `read`, `drop`, `end`. From it: `ready`, `done`,
`failed`, `alone` (of the lane "fused": this one is for "whole"), `begun` (not of "fused"), `beat`, a sign of life.

Many questions at a time: their draws are made together, a few of each in a pass, and nobody waits for long ones.

A pass of the network moves noise of several questions at once, in columns of 256 draws, each with the features of its
own observation. Columns are dealt round robin, four at most to a question in its turn, which take about as long as all
that is to be said of an answer beside its draws. A question of 20,000 draws has 79 columns and one of 200 has one,
which is in the next pass or one soon after. When its draws are complete, a question is answered and leaves; others join
meanwhile. Observations that came together are embedded, and compared with the simulations, in one batch.
An estimator that takes noise out step by step moves its columns all the way in one pass.

Every question draws its noise from a generator of its own, all of it at once, as it does alone. So a fused answer is
the lone one but for rounding, whatever else was asked at the time.

References:
    | Flover: A Temporal Fusion Framework for Efficient Autoregressive Model Parallel Inference (Yao et al., 2023),
      https://arxiv.org/abs/2305.13484
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observation
from sciinf.core.estimator import PushedDensity
from sciinf.core.telling import ERROR, show_from, tell
from sciinf.diagnostics.judge import Judge, Looked
from sciinf.interfaces.question import QueryOptions, Question
from sciinf.interfaces.serve.answering import (
    answered,
    observation_in,
    simulated,
    stored_answer,
    wanted_in,
    whole_answer,
)
from sciinf.interfaces.serve.models import Model, Models, NotReady, Served, as_given
from sciinf.interfaces.serve.reading import limit_memory, read
from sciinf.interfaces.serve.requests import TooMuch, Unfit, Unreadable
from sciinf.interfaces.serve.wire import pack, unpack
from sciinf.posteriors.amortised import Amortised, pushed

BEAT = 1.0  # seconds between two signs of life
_WARM = 5.0  # seconds after which no further run is answered beforehand
_OWN = 2**63 - 1  # a seed that no stored answer has, so that the answer is made


class Fault(StrEnum):
    """Whose fault it is that there is no answer."""

    BODY = "body"
    QUESTION = "question"
    MUCH = "much"
    RUN = "run"
    OWN = "own"


def work(pipe: Connection, lane: str, sources: Sequence[Mapping[str, Any]]) -> None:
    """Answer until the pipe ends.

    Args:
        pipe: To the service.
        lane: "fused", "whole" or "reading".
        sources: The runs, as `Served.to_json` has them.
    """
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends its workers itself
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    show_from(ERROR)
    here = {"device": "cpu"} if lane == "reading" else {}  # the reading process asks no network, so it needs no device
    models = Models([Served(**{**source, **here}) for source in sources])
    for source in list(models.sources.values()):
        if source.ready and not source.young:  # one that was young is opened with what the first question says of it
            with contextlib.suppress(NotReady):  # told to who asks it
                models.get(source.name)
    worker = Fused(pipe, models) if lane == "fused" else Whole(pipe, models)
    if lane == "reading":
        limit_memory()
    else:
        warmed(models, lane)
    try:
        pipe.send_bytes(pack({"kind": "ready"}))
        worker.run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the service is gone


@final
class Fused:
    """The lane of fused questions.

    Args:
        pipe: To the service.
        models: What is served.
    """

    def __init__(self, pipe: Connection, models: Models) -> None:
        self._pipe, self._models, self._beaten = pipe, models, 0.0
        self._fusion = Fusion(models, self._done, self._failed, self._alone)

    def run(self) -> None:
        """Until the service ends it."""
        while True:
            while self._pipe.poll(0.0 if self._fusion.busy else BEAT):
                head, arrays = unpack(self._pipe.recv_bytes())
                if head["kind"] == "end":
                    return
                self._take(head, arrays)
            if self._fusion.busy:
                self._fusion.step()
            if time.monotonic() - self._beaten > BEAT:
                self._beaten = time.monotonic()
                self._pipe.send_bytes(pack({"kind": "beat"}))

    def _take(self, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        if head["kind"] == "drop":
            self._fusion.drop(head["id"])
        else:
            _learn(self._models, head)
            self._fusion.add(Ticket(head["id"], head["model"], observation_in(head, arrays), wanted_in(head)))

    def _done(self, id: int, message: bytes) -> None:
        self._pipe.send_bytes(pack({"kind": "done", "id": id}, {"": np.frombuffer(message, np.uint8)}))

    def _failed(self, id: int, error: Exception) -> None:
        self._pipe.send_bytes(pack({"kind": "failed", "id": id, **_told(error)}))

    def _alone(self, id: int) -> None:
        self._pipe.send_bytes(pack({"kind": "alone", "id": id}))


@final
class Whole:
    """A lane in which one thing is done at a time.

    Args:
        pipe: To the service.
        models: What is served.
    """

    def __init__(self, pipe: Connection, models: Models) -> None:
        self._pipe, self._models, self._waiting = pipe, models, deque[tuple[Any, Any]]()

    def run(self) -> None:
        """Until the service ends it."""
        while True:
            while self._pipe.poll(0.0 if self._waiting else BEAT):
                head, arrays = unpack(self._pipe.recv_bytes())
                if head["kind"] == "end":
                    return
                if head["kind"] == "drop":
                    self._waiting = deque(one for one in self._waiting if one[0]["id"] != head["id"])
                else:
                    self._waiting.append((head, arrays))
            if not self._waiting:
                self._pipe.send_bytes(pack({"kind": "beat"}))
                continue
            head, arrays = self._waiting.popleft()
            self._pipe.send_bytes(pack({"kind": "begun", "id": head["id"]}))
            self._pipe.send_bytes(self._answer(head, arrays))

    def _answer(self, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
        try:
            _learn(self._models, head)
            if head["kind"] == "simulate":
                message = simulated(self._models.get(head["model"]), arrays[""].tobytes())
            elif head["kind"] == "read":
                message = read(self._models, head, arrays)
            else:
                model = self._models.get(head["model"])
                message = whole_answer(model, observation_in(head, arrays), wanted_in(head))
        except Exception as error:
            return pack({"kind": "failed", "id": head["id"], **_told(error)})
        return pack({"kind": "done", "id": head["id"]}, {"": np.frombuffer(message, np.uint8)})


def warmed(models: Models, lane: str) -> int:
    """Answer what each run has answered already, so that the first question finds all code loaded and all tables made.

    Args:
        models: What is served; those that are not open are left.
        lane: "fused" or "whole".

    Returns:
        How many questions were answered.
    """
    until, answers = time.monotonic() + _WARM, list[bytes]()
    together = Fusion(models, lambda _, answer: answers.append(answer), lambda *_: None, lambda _: None)
    for k, name in enumerate(models.sources):
        model = models.opened(name)
        if model is None or not model.known or time.monotonic() > until:
            continue
        x, wanted = as_given(next(iter(model.known.values()))), QueryOptions(seed=_OWN, predicted=False)
        if lane == "whole":
            with contextlib.suppress(Exception):  # told to who asks it
                answers.append(whole_answer(model, x, wanted))
            continue
        together.add(Ticket(k, name, x, wanted))
        while together.busy:
            together.step()
    return len(answers)


def _learn(models: Models, head: Mapping[str, Any]) -> None:
    """Take in what a question says of its run, where that was not known when the worker was started."""
    if head.get("source"):
        models.learn(Served(**head["source"]))


def _told(error: Exception) -> dict[str, Any]:
    """An error in words, and whose it is. Of our own the log has all, and who asked is told that it is there."""
    known = {Unreadable: Fault.BODY, TooMuch: Fault.MUCH, ValueError: Fault.QUESTION, NotReady: Fault.RUN}
    of = next((fault for kind, fault in known.items() if isinstance(error, kind)), Fault.OWN)
    if of == Fault.OWN:
        tell("".join(traceback.format_exception(error)).rstrip(), ERROR)
        return {"words": "something went wrong in the service; its log says what", "of": of}
    field = error.field if isinstance(error, Unfit) else None
    return {"words": " ".join(str(error).split()) or type(error).__name__, "of": of, "field": field}


COLUMN, COLUMNS, TURN = 256, 16, 4  # draws in a column; columns in a pass, and of one question in its turn
_TOGETHER = 64  # observations that are embedded at once
_HELD = 2_000_000  # draws that are being made, above which those that come wait
_SHORT = 0.02  # seconds that questions which came are taken in for, before the next pass


@dataclass(frozen=True)
class Ticket:
    """A question that waits.

    Args:
        id: By which its answer is sent.
        model: The run's name.
        x: The observation.
        wanted: What is asked for.
    """

    id: int
    model: str
    x: Observation
    wanted: QueryOptions


@dataclass
class _Drawing:
    """A question whose draws are being made."""

    ticket: Ticket
    model: Model
    question: Question
    looked: Looked
    density: PushedDensity
    generator: torch.Generator
    noise: Tensor  # (more, 1, D)
    parts: list[Tensor] = field(default_factory=list)
    dealt: int = 0

    @property
    def left(self) -> int:
        """Draws that no pass has been given yet."""
        return len(self.noise) - self.dealt


@final
class Fusion:
    """Answers questions that come at any time.

    Args:
        models: What is served.
        done: Told the id of a question and its answer, as a message.
        failed: Told the id of one that has no answer, and why.
        alone: Told the id of one that cannot be fused: it is answered by itself, elsewhere.
    """

    def __init__(
        self,
        models: Models,
        done: Callable[[int, bytes], None],
        failed: Callable[[int, Exception], None],
        alone: Callable[[int], None],
    ) -> None:
        self._models, self._done, self._failed, self._alone = models, done, failed, alone
        self._arrived: deque[Ticket] = deque()
        self._drawing: deque[_Drawing] = deque()
        self.passes = 0

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self._arrived or self._drawing)

    def add(self, ticket: Ticket) -> None:
        """Take a question."""
        self._arrived.append(ticket)

    def drop(self, id: int) -> None:
        """Forget a question for which nobody waits any more."""
        self._arrived = deque(ticket for ticket in self._arrived if ticket.id != id)
        self._drawing = deque(drawing for drawing in self._drawing if drawing.ticket.id != id)

    @torch.no_grad()
    def step(self) -> None:
        """Look at what came, and make one pass."""
        if self._arrived and sum(len(one.noise) for one in self._drawing) < _HELD:
            self._begin()
        if self._drawing:
            self._pass()

    def _begin(self) -> None:
        """Look at observations that came together: all of what one posterior answers in one batch.

        What the run folder has an answer to is answered at once. To read that, or to find out which posterior answers
        where some were refined, takes a while: then a few are looked at.
        """
        groups: dict[int, list[tuple[Ticket, Model, Question]]] = {}
        until = time.monotonic() + _SHORT
        for k in range(min(len(self._arrived), _TOGETHER)):
            if k and time.monotonic() > until:
                break
            ticket = self._arrived.popleft()
            try:
                model = self._models.get(ticket.model)
                asked, question = model.question(ticket.x, ticket.wanted)
                where = asked.folder.relative_to(model.folder).as_posix()
                if (found := stored_answer(model, question, where)) is not None:
                    self._done(ticket.id, found)
                    continue
            except Exception as error:
                self._failed(ticket.id, error)
                continue
            if ticket.wanted.predicted or not isinstance(question.posterior, Amortised):
                self._alone(ticket.id)
                continue
            groups.setdefault(id(question.judge), []).append((ticket, model, question))
        for group in groups.values():
            self._look(group)

    def _look(self, group: Sequence[tuple[Ticket, Model, Question]]) -> None:
        judge = group[0][2].judge
        x = {name: torch.cat([question.x[name] for _, _, question in group]) for name in judge.posterior.observables}
        try:
            density, looked = pushed(judge.posterior, x), judge.look(x)
        except Exception as error:
            for ticket, *_ in group:
                self._failed(ticket.id, error)
            return
        if density is None:
            for ticket, *_ in group:
                self._alone(ticket.id)
            return
        for (ticket, model, question), one, own in zip(group, looked, density.each(), strict=True):
            generator = question.generator()
            noise = own.noise(ticket.wanted.draws, generator=generator)
            self._drawing.append(_Drawing(ticket, model, question, one, own, generator, noise))

    def _pass(self) -> None:
        """Deal columns round robin, all of one posterior; move their noise; answer what is complete."""
        judge, dealt = self._drawing[0].question.judge, []
        others: list[_Drawing] = []
        size = self._length(judge)
        most, turn = COLUMN * COLUMNS // size, COLUMN * TURN // size
        while self._drawing and len(dealt) < most:
            one = self._drawing.popleft()
            if one.question.judge is not judge:
                others.append(one)
                continue
            for _ in range(min(turn, most - len(dealt))):
                dealt.append((one, one.noise[one.dealt : one.dealt + size]))
                one.dealt += len(dealt[-1][1])
                if not one.left:
                    break
            else:
                self._drawing.append(one)
        self._drawing.extendleft(reversed(others))  # what waited is first in the next pass
        try:
            moved = _moved([one.density for one, _ in dealt], [noise for _, noise in dealt])
        except Exception as error:
            for one in {drawing.ticket.id: drawing for drawing, _ in dealt}.values():
                self.drop(one.ticket.id)
                self._failed(one.ticket.id, error)
            return
        self.passes += 1
        for (one, _), theta in zip(dealt, moved, strict=True):
            one.parts.append(theta)
            if sum(map(len, one.parts)) == len(one.noise):
                self._finish(one)

    def _length(self, judge: Judge) -> int:
        """Draws in a column: four times as many where all questions whose turn it is have so many left."""
        same = (one for one in self._drawing if one.question.judge is judge)
        next_ones = list(islice(same, COLUMNS // TURN))
        return COLUMN * TURN if all(one.left >= COLUMN * TURN for one in next_ones) else COLUMN

    def _finish(self, one: _Drawing) -> None:
        try:
            theta = one.density.within(one.ticket.wanted.draws, torch.cat(one.parts), one.noise)
            posterior = one.question.posterior
            if not isinstance(posterior, Amortised):
                raise TypeError(f"{posterior.name} is not answered together with others")
            drawn = posterior.unweighted(theta[:, 0].cpu())
            answer = one.question.completed(one.looked, drawn, one.generator)
            self._done(one.ticket.id, answered(one.model, one.question, answer, "."))
        except Exception as error:
            self._failed(one.ticket.id, error)


def _moved(densities: Sequence[PushedDensity], noise: Sequence[Tensor]) -> list[Tensor]:
    """Noise of several observations, (n, 1, D) each, to draws of each."""
    longest = max(map(len, noise))
    filled = noise[0].new_zeros(longest, len(noise), noise[0].shape[-1])
    for k, one in enumerate(noise):
        filled[: len(one), k] = one[:, 0]
    theta = densities[0].joined(densities[1:]).push(filled)
    return [theta[: len(one), k : k + 1] for k, one in enumerate(noise)]
