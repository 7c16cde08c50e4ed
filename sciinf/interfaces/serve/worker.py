r"""Worker processes of the service: questions arrive over a pipe, and answers go back.

There are three lanes, and each lane is a process. The lane "fused" makes the draws of many questions together
(`Fusion`), and does nothing else. The lane "whole" does one task at a time, for tasks that take long or cannot be
fused. Such tasks are checks by the simulator, refined and corrected answers, answers of other estimators, and
simulations at chosen parameters. The lane "reading" reads files and large bodies.

Messages have the format of `wire`. The service sends `answer`, `simulate`, `read`, `drop` and `end`. A worker sends
`ready`, `done`, `failed` and `beat`, a sign of life. The lane "fused" also sends `alone`: this question is for the lane
"whole". The other lanes also send `begun`.

In the lane "fused", each pass of the network makes a few draws of several questions. So short questions do not wait
for long ones. A pass transforms noise in columns of 256 draws, and each column has the features of its question's
observation. Columns are dealt round robin, at most four to a question in its turn. Four columns take about as long as
all other work on an answer. A question of 20,000 draws has 79 columns. A question of 200 draws has one column, which is
in the next pass or one soon after. When its draws are complete, a question is answered and leaves; other questions join
meanwhile. Observations that arrived together are embedded, and compared with the simulations, in one batch. An
estimator that removes noise step by step takes its columns through all steps in one pass.

Every question draws all its noise at once from a generator of its own, as it does when it is asked alone. So a fused
answer equals the answer to the question alone except for rounding, whatever else was asked at the time.

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

BEAT = 1.0  # Seconds between two signs of life.
_WARM = 5.0  # Seconds after which `warmed` asks no further run.
_OWN = 2**63 - 1  # A seed that no stored answer has, so that a new answer is made.


class Fault(StrEnum):
    """The cause of a missing answer: the body, the question, its size, the run, or the service itself (OWN)."""

    BODY = "body"
    QUESTION = "question"
    MUCH = "much"
    RUN = "run"
    OWN = "own"


def work(pipe: Connection, lane: str, sources: Sequence[Mapping[str, Any]]) -> None:
    """Answer questions until the pipe is closed.

    Args:
        pipe: Connection to the service.
        lane: Name of the lane: "fused", "whole" or "reading".
        sources: The runs, as `Served.to_json` returns them.
    """
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The service ends its workers itself.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    show_from(ERROR)
    here = {"device": "cpu"} if lane == "reading" else {}  # The reading process uses no network.
    models = Models([Served(**{**source, **here}) for source in sources])
    for source in list(models.sources.values()):
        if source.ready and not source.young:  # A young run is opened when a question brings its source.
            with contextlib.suppress(NotReady):  # A question about the run gets this error as its reply.
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
        return  # The service is gone.


@final
class Fused:
    """The lane "fused", which makes the draws of many questions together.

    Args:
        pipe: Connection to the service.
        models: The runs that are served.
    """

    def __init__(self, pipe: Connection, models: Models) -> None:
        self._pipe, self._models, self._beaten = pipe, models, 0.0
        self._fusion = Fusion(models, self._done, self._failed, self._alone)

    def run(self) -> None:
        """Answer questions until the service ends the process."""
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
    """The lanes "whole" and "reading", in which one task is done at a time.

    Args:
        pipe: Connection to the service.
        models: The runs that are served.
    """

    def __init__(self, pipe: Connection, models: Models) -> None:
        self._pipe, self._models, self._waiting = pipe, models, deque[tuple[Any, Any]]()

    def run(self) -> None:
        """Do one task after the other until the service ends the process."""
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
    """Answer one known observation of each run, so that the first question finds all code and tables in memory.

    Args:
        models: The runs that are served; runs that are not open are skipped.
        lane: Name of the lane: "fused" or "whole".

    Returns:
        Number of questions that were answered.
    """
    until, answers = time.monotonic() + _WARM, list[bytes]()
    together = Fusion(models, lambda _, answer: answers.append(answer), lambda *_: None, lambda _: None)
    for k, name in enumerate(models.sources):
        model = models.opened(name)
        if model is None or not model.known or time.monotonic() > until:
            continue
        x, wanted = as_given(next(iter(model.known.values()))), QueryOptions(seed=_OWN, predicted=False)
        if lane == "whole":
            with contextlib.suppress(Exception):  # A question about the run gets this error as its reply.
                answers.append(whole_answer(model, x, wanted))
            continue
        together.add(Ticket(k, name, x, wanted))
        while together.busy:
            together.step()
    return len(answers)


def _learn(models: Models, head: Mapping[str, Any]) -> None:
    """Take over the source of a run that a question brings, if it was not known when the worker started."""
    if head.get("source"):
        models.learn(Served(**head["source"]))


def _told(error: Exception) -> dict[str, Any]:
    """Text and cause of an error, as entries of a message.

    An internal error goes to the log as a whole, and the client is told only to look there.
    """
    known = {Unreadable: Fault.BODY, TooMuch: Fault.MUCH, ValueError: Fault.QUESTION, NotReady: Fault.RUN}
    of = next((fault for kind, fault in known.items() if isinstance(error, kind)), Fault.OWN)
    if of == Fault.OWN:
        tell("".join(traceback.format_exception(error)).rstrip(), ERROR)
        return {"words": "something went wrong in the service; its log says what", "of": of}
    field = error.field if isinstance(error, Unfit) else None
    return {"words": " ".join(str(error).split()) or type(error).__name__, "of": of, "field": field}


COLUMN, COLUMNS, TURN = 256, 16, 4  # Draws in a column; columns in a pass; columns of one question in its turn.
_TOGETHER = 64  # Largest number of observations that are embedded at once.
_HELD = 2_000_000  # Number of unfinished draws above which new questions wait.
_SHORT = 0.02  # Seconds for which new questions are taken in before the next pass.


@dataclass(frozen=True)
class Ticket:
    """A question that waits in the lane "fused".

    Args:
        id: Number of the question, under which its answer is sent.
        model: Name of the run.
        x: The observation.
        wanted: Options of the query.
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
    noise: Tensor  # The shape is (more, 1, D), with at least as many rows as draws are asked for.
    parts: list[Tensor] = field(default_factory=list)
    dealt: int = 0

    @property
    def left(self) -> int:
        """Number of rows of the noise that no pass has taken yet."""
        return len(self.noise) - self.dealt


@final
class Fusion:
    """Answers questions that arrive at any time, and makes their draws together.

    Args:
        models: The runs that are served.
        done: Called with the id of a question and its answer, as a message.
        failed: Called with the id of a question that has no answer, and the error.
        alone: Called with the id of a question that cannot be fused, and must be answered in the lane "whole".
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
        """Whether any question waits or is being answered."""
        return bool(self._arrived or self._drawing)

    def add(self, ticket: Ticket) -> None:
        """Take in a question."""
        self._arrived.append(ticket)

    def drop(self, id: int) -> None:
        """Forget a question whose answer nobody waits for any more."""
        self._arrived = deque(ticket for ticket in self._arrived if ticket.id != id)
        self._drawing = deque(drawing for drawing in self._drawing if drawing.ticket.id != id)

    @torch.no_grad()
    def step(self) -> None:
        """Take in questions that arrived, and make one pass of the network."""
        if self._arrived and sum(len(one.noise) for one in self._drawing) < _HELD:
            self._begin()
        if self._drawing:
            self._pass()

    def _begin(self) -> None:
        """Take in questions that arrived together; observations for the same posterior go through it in one batch.

        A question to which the run folder has an answer is answered at once. Reading that answer takes time, and so
        does the choice of the posterior in a run with refined ones. So questions are taken in for a short time only.
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
        """Make one pass for one posterior: deal columns in turn, transform their noise, answer complete questions."""
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
        self._drawing.extendleft(reversed(others))  # Those that waited come first in the next pass.
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
        """Draws in a column: `COLUMN`, or `TURN` times as many if all next questions have that many left."""
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
    """Transform the noise of several observations, (n, 1, D) each, into the draws of each."""
    longest = max(map(len, noise))
    filled = noise[0].new_zeros(longest, len(noise), noise[0].shape[-1])
    for k, one in enumerate(noise):
        filled[: len(one), k] = one[:, 0]
    theta = densities[0].joined(densities[1:]).push(filled)
    return [theta[: len(one), k : k + 1] for k, one in enumerate(noise)]
