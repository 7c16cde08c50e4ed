"""What runs in a worker process: questions come over a pipe, and answers go back.

There are three lanes, each a process of its own. In the lane "fused" draws of many questions are made together
(`fusion`), and it never does anything else. Whatever takes long, or cannot be fused, goes one by one through the lane
"whole": checks by the simulator, refined and corrected answers, other estimators, what-if. Files and large bodies are
read in the lane "reading".

Messages are those of `wire`. To the worker: `answer`, `simulate`, `read`, `drop`, `end`. From it: `ready`, `done`,
`failed`, `alone` (of the lane "fused": this one is for "whole"), `begun` (not of "fused"), `beat`, a sign of life.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Any, final

import numpy as np

from sciinf.core.telling import ERROR, show_from, tell
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.answering import observation_in, simulated, wanted_in, whole_answer
from sciinf.interfaces.serve.fusion import Fusion, Ticket
from sciinf.interfaces.serve.models import Models, NotReady, Served, as_given
from sciinf.interfaces.serve.reading import limit_memory, read
from sciinf.interfaces.serve.requests import TooMuch, Unfit, Unreadable
from sciinf.interfaces.serve.wire import pack, unpack

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
