"""Control of the worker processes by the service, which starts them, sends them questions and replaces dead ones.

If a worker dies, the question that it worked on is given to the next worker, once. After a second death, the question
is refused with "ask again". In the lane "fused", the worker was at work on all its questions. In the other lanes, it
was at work on one; the rest only wait for longer. In the lane "reading", that question is refused after the first
death. So every question is answered, or refused with a message. A worker is killed if it gives no sign of life, or
works on one question for longer than a question may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, final

import numpy as np

from sciinf.core.telling import tell
from sciinf.interfaces.serve.engine import AnsweringEngine, Broken, Busy
from sciinf.interfaces.serve.models import NotReady, Served
from sciinf.interfaces.serve.reading import Body, asked_in, body_out
from sciinf.interfaces.serve.requests import ObservationRequest, Questions, RequestLimits, TooMuch, Unfit, Unreadable
from sciinf.interfaces.serve.wire import pack, unpack
from sciinf.interfaces.serve.worker import Fault, work

_TRIES = 2
_SILENT = 60.0  # Seconds without a sign of life after which a worker is killed.
# Useless processes in a row after which questions are refused; longest pause between two starts, in seconds.
_BARREN, _PATIENCE = 5, 30.0
_LOOK = 1.0
_ENDED = "the service ends; ask again when it is back"
_DEADLY = "the process that reads files did not survive it: it is damaged, or takes too long; save it again"
_ERRORS: Mapping[Fault, type[Exception]] = {
    Fault.BODY: Unreadable,
    Fault.QUESTION: Unfit,
    Fault.MUCH: TooMuch,
    Fault.RUN: NotReady,
    Fault.OWN: Broken,
}


@dataclass
class _Job:
    """A question that has no answer yet."""

    id: int
    message: bytes
    future: asyncio.Future[bytes]
    tries: int = 0  # Number of processes that died while they worked on the question.


@final
class AnsweringWorkers(AnsweringEngine):
    """Engine with the three lanes "fused", "whole" and "reading", each of one worker process.

    Args:
        sources: The runs that are served.
        seconds: Longest time that one question may take, in seconds.
        now: Name -> the run's current source. The simulator of a run that was not ready at the start is found later,
            and its source is then replaced in this mapping.
    """

    def __init__(
        self, sources: Sequence[Served], seconds: float = 120.0, now: Mapping[str, Served] | None = None
    ) -> None:
        self._young, self._now = {source.name for source in sources if source.young}, now or {}
        said = [source.to_json() for source in sources]
        self._ids = itertools.count()
        self._whole = _Lane("whole", said, seconds, self._to_whole)
        self._fused = _Lane("fused", said, seconds, self._to_whole)
        self._reading = _Lane("reading", said, seconds, self._to_whole)
        self._lanes = {lane.name: lane for lane in (self._fused, self._whole, self._reading)}

    async def start(self) -> None:
        for lane in self._lanes.values():
            lane.start(asyncio.get_running_loop())

    async def stop(self) -> None:
        for lane in self._lanes.values():
            lane.end()
        await asyncio.gather(*(asyncio.to_thread(lane.join) for lane in self._lanes.values()))

    async def answer(self, model: str, one: ObservationRequest) -> bytes:
        wanted = {name: getattr(one.wanted, name) for name in one.wanted.__dataclass_fields__}
        wanted["files"] = dict(one.wanted.files)
        head = {"kind": "answer", "model": model, "wanted": wanted, **one.told}
        lane = self._whole if one.wanted.predicted else self._fused
        return await self._asked(lane, head, one.x)

    async def read(self, model: str, body: Body, bounds: RequestLimits) -> Questions:
        head, contents = body_out(body, bounds)
        return asked_in(await self._asked(self._reading, {"kind": "read", "model": model, **head}, contents))

    async def simulate(self, model: str, body: bytes) -> bytes:
        content = {"": np.frombuffer(body, np.uint8)}
        return await self._asked(self._whole, {"kind": "simulate", "model": model}, content)

    def state(self) -> dict[str, Any]:
        lanes = self._lanes
        return {
            "alive": self._fused.alive,
            "waiting": sum(len(lane.jobs) for lane in lanes.values()),
            "restarts": sum(max(0, lane.starts - 1) for lane in lanes.values()),
            "lanes": {name: {"alive": lane.alive, "pid": lane.pid} for name, lane in lanes.items()},
        }

    async def _asked(self, lane: _Lane, head: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
        loop = asyncio.get_running_loop()
        id = next(self._ids)
        if head["model"] in self._young and head["model"] in self._now:
            head = {**head, "source": self._now[head["model"]].to_json()}
        job = _Job(id, pack({**head, "id": id}, arrays), loop.create_future())
        lane.start(loop)
        lane.give(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            for each in self._lanes.values():
                each.drop(id)
            raise

    def _to_whole(self, job: _Job) -> None:
        """Give the lane "whole" a question that the lane "fused" cannot answer."""
        self._whole.start(job.future.get_loop())
        job.tries = 0
        self._whole.give(job)


@dataclass
class _Running:
    """A worker process with its pipe and its outbox, from which a thread writes messages to the pipe."""

    process: Any
    pipe: Any
    outbox: SimpleQueue[bytes | None]
    heard: float
    ready: bool = False
    useful: bool = False  # Whether the process has ever begun a question.
    at: int | None = None  # Id of the question that the process works on.
    since: float = 0.0  # Time at which the process began that question.


@dataclass
class _Lane:
    """A lane: one process at a time, and the unanswered questions. Only the event loop changes its fields."""

    name: str
    sources: Sequence[Mapping[str, Any]]
    seconds: float
    elsewhere: Callable[[_Job], None]
    jobs: dict[int, _Job] = field(default_factory=dict)
    starts: int = 0
    _now: _Running | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _pause: float = 0.0
    _barren: int = 0
    _ended: bool = False
    _timer: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is ready to answer."""
        return self._now is not None and self._now.ready

    @property
    def pid(self) -> int | None:
        """Number of the process in the operating system; None if there is no process."""
        return self._now.process.pid if self._now else None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the process, unless it was started before."""
        if self._loop is None:
            self._loop = loop
            self._launch()
            self._timer = loop.call_later(_LOOK, self._look)

    def end(self) -> None:
        """Tell the process to end, and refuse all unanswered and all later questions."""
        self._ended = True
        for job in list(self.jobs.values()):
            self._refuse(job, _ENDED)
        if self._timer is not None:
            self._timer.cancel()
        if self._now is not None:
            self._now.outbox.put(pack({"kind": "end"}))

    def join(self) -> None:
        """Wait until the process has ended, or kill it."""
        now = self._now
        if now is None:
            return
        now.process.join(1)
        if now.process.is_alive():
            now.process.kill()
            now.process.join(5)

    def give(self, job: _Job) -> None:
        """Send a question to the process."""
        self.jobs[job.id] = job
        if self._ended:
            self._refuse(job, _ENDED)
        elif self._now is not None:
            self._now.outbox.put(job.message)

    def drop(self, id: int) -> None:
        """Forget a question whose answer nobody waits for any more."""
        if self.jobs.pop(id, None) is not None and self._now is not None:
            self._now.outbox.put(pack({"kind": "drop", "id": id}))

    def _launch(self) -> None:
        """Start a process, and send it all unanswered questions."""
        if self._ended:
            return
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, self.name, self.sources), daemon=True)
        try:
            process.start()
        except OSError as error:  # There is no memory, or there are too many processes.
            tell(f"note: the worker {self.name!r} cannot be started ({error}); it is tried again")
            if self._loop is not None:
                self._loop.call_later(_PATIENCE, self._launch)
            return
        theirs.close()
        now = time.monotonic()
        running = _Running(process, ours, SimpleQueue(), now)
        self._now, self.starts = running, self.starts + 1
        threading.Thread(target=self._write, args=(running,), daemon=True).start()
        threading.Thread(target=self._listen, args=(running,), daemon=True).start()
        for job in self.jobs.values():
            running.outbox.put(job.message)

    @staticmethod
    def _write(running: _Running) -> None:
        """Send the messages of the outbox, and close the pipe when nobody reads from it any more.

        A full pipe blocks only this thread. A message that cannot be sent is dropped, because the process is gone then.
        """
        while (message := running.outbox.get()) is not None:
            with contextlib.suppress(OSError, ValueError):
                running.pipe.send_bytes(message)
        running.pipe.close()

    def _listen(self, running: _Running) -> None:
        """Receive the messages of the process until it ends, and pass them to the event loop."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = running.pipe.recv_bytes()
                self._call(self._heard, running, message)
        running.outbox.put(None)
        self._call(self._died, running)

    def _call(self, function: Callable[..., None], *given: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed, because the service ends.
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *given)

    def _heard(self, running: _Running, message: bytes) -> None:
        head, arrays = unpack(message)
        running.heard, kind = time.monotonic(), head["kind"]
        if kind == "ready":
            running.ready = True
        elif kind == "begun":
            running.at, running.since, running.useful = head["id"], running.heard, True
        elif kind in ("done", "failed", "alone"):
            running.at = None
            job = self.jobs.pop(head["id"], None)
            if job is None or job.future.done():
                return
            if kind == "done":
                job.future.set_result(arrays[""].tobytes())
            elif kind == "alone":
                self.elsewhere(job)
            else:
                given = (head["words"], head["field"]) if head["of"] == Fault.QUESTION else (head["words"],)
                job.future.set_exception(_ERRORS[head["of"]](*given))

    def _died(self, running: _Running) -> None:
        """Refuse questions over which too many processes died, and start a process for the others."""
        running.process.kill()
        running.process.join()
        if running is not self._now:
            return
        self._now = None
        together = self.name == "fused"
        useful = running.ready and (together or running.useful)
        self._barren = 0 if useful else self._barren + 1  # The process did no work.
        self._pause = min(_PATIENCE, max(0.5, 2 * self._pause)) if self._barren else 0.0
        for job in list(self.jobs.values()):
            job.tries += running.ready and (together or job.id == running.at)
            if self._barren > _BARREN:
                self._refuse(job, "the process that answers cannot be started; ask again")
            elif job.tries and self.name == "reading":
                self._refuse(job, Unfit(_DEADLY, "file"))
            elif job.tries >= _TRIES:
                self._refuse(job, "the process that answers stopped twice while it worked on this question; ask again")
        if not self._ended and self._loop is not None:
            tell(f"note: the worker {self.name!r} died, and is started anew")
            self._loop.call_later(self._pause, self._launch)

    def _refuse(self, job: _Job, why: str | Unfit) -> None:
        del self.jobs[job.id]
        if not job.future.done():
            job.future.set_exception(Busy(why, 2) if isinstance(why, str) else why)

    def _look(self) -> None:
        """Kill the process if it is stuck, and look again after `_LOOK` seconds."""
        now, running = time.monotonic(), self._now
        if running is not None and running.ready:
            stuck = running.at is not None and now - running.since > self.seconds + 5
            if stuck or (running.at is None and now - running.heard > _SILENT):
                running.process.kill()
        if not self._ended and self._loop is not None:
            self._timer = self._loop.call_later(_LOOK, self._look)
