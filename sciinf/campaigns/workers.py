"""Run blocks in this process, or in worker processes of this machine.

Worker processes are for simulators that hang, crash, or use one processor each. A block loses a try if its
worker dies or its deadline passes (`campaigns.campaign`). Workers end with their parent, however it ends.
They also end the programs that their simulator has started: those of their process group, and those found by
the heartbeat process beside each worker (`campaigns.watcher`) after the worker has ended. On GPUs each worker
has a GPU of its own (`campaigns.devices`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from sciinf.campaigns.block import simulated
from sciinf.campaigns.campaign import TRIES, Campaign, Engine
from sciinf.campaigns.devices import own_device, streams
from sciinf.campaigns.sent import Job, attempt, check_sendable, job_of, opened
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.store import Store
from sciinf.campaigns.watcher import Watcher
from sciinf.core.checks import check_whole
from sciinf.core.files import alive
from sciinf.core.observable import Status
from sciinf.core.simulator import Simulator

if TYPE_CHECKING:
    from pebble import ProcessPool

_TICK = 2.0
_CHEAP = 0.1  # Seconds, about the time in which a slow disk writes a block.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@final
class Here(Engine):
    """Run blocks in this process, one after the other. If the simulator hangs or crashes, this process does too.

    A block that was simulated in less than a tenth of a second is written while the next block is simulated. A block
    that took longer, or in which most rows failed, is on the disk before the next block begins.
    """

    def check(self, simulator: Simulator, path: str | Path | None = None) -> None:
        pass

    def run(self, campaign: Campaign) -> Generator[Entry, None, None]:
        store, written = campaign.store, None
        with ThreadPoolExecutor(1, "writes") as beside:  # A write that was begun is always finished.
            while (index := campaign.take()) is not None:
                if landed := campaign.landed(index):
                    yield landed
                    continue
                try:
                    made, image = simulated(campaign.simulator, store, index, device=campaign.device)
                except Exception:
                    if written is not None:
                        written.result()  # A failed write of the block before is raised first.
                    raise
                ended = [written.result()] if written is not None else []
                written = _begun(beside, store, made, image)
                if written is None:
                    ended.append(store.write(made, image))
                for entry in ended:  # Only after the latest block is written or being written.
                    yield store.noted(entry)
            if written is not None:
                yield store.noted(written.result())


@final
@dataclass(frozen=True)
class Workers(Engine):
    """Run blocks in worker processes of this machine.

    Args:
        count: Number of processes; on the device "cuda" at most the number of GPUs, and each process has a GPU of its
            own.

    Raises:
        ValueError: If the count is no integer of at least 1.
    """

    count: int

    def __post_init__(self) -> None:
        check_whole("count", self.count, 1)

    def check(self, simulator: Simulator, path: str | Path | None = None) -> None:
        check_sendable(simulator)

    def run(self, campaign: Campaign) -> Generator[Entry, None, None]:
        workers = streams(campaign.device, min(self.count, max(1, len(campaign.queue))))
        with tempfile.TemporaryDirectory(prefix="sciinf-") as claims, _single_threads():
            crew = _Crew(job_of(campaign, Path(claims)), campaign, workers)
            try:
                yield from crew.run()
            finally:
                crew.stop()


class _Crew:
    """Pool of worker processes, and the blocks that they are running."""

    def __init__(self, job: Job, campaign: Campaign, workers: int) -> None:
        self.job, self.campaign, self.workers = job, campaign, workers
        self.hand: dict[Future[Any], int] = {}
        self.gone: set[Future[Any]] = set()
        self.breaks = 0
        self.pool = self._open()

    def run(self) -> Iterator[Entry]:
        """Yield the entries of blocks as they are committed."""
        looked = time.monotonic()
        while self.campaign.queue or self.hand:
            yield from self._schedule()
            done, _ = wait(self.hand, timeout=_TICK / 4, return_when=FIRST_COMPLETED)
            broken = False
            for future in done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    broken = True
                    continue
                index = self.hand.pop(future)
                entry = self._failed(index, error) if error is not None else self._reported(future.result())
                if entry is not None:
                    self.breaks = 0
                    yield entry
            if broken:
                self._replace()
            elif time.monotonic() - looked > _TICK:
                looked = time.monotonic()
                yield from self._lost()

    def stop(self) -> None:
        """End the workers."""
        self.pool.stop()
        self.pool.join()

    def _open(self) -> ProcessPool:
        from pebble import ProcessPool

        context = multiprocessing.get_context("spawn")
        return ProcessPool(self.workers, initializer=_start, initargs=(self.job,), context=context)

    def _schedule(self) -> Iterator[Entry]:
        """Give blocks to workers; yield the entries of blocks that another process has committed meanwhile."""
        while self.campaign.queue and len(self.hand) <= self.workers:
            index = self.campaign.queue[0]
            if (landed := self.campaign.landed(index)) is not None:
                self.campaign.queue.popleft()
                yield landed
                continue
            tries, timeout = self.campaign.tries[index], self.campaign.timeout
            try:
                future = self.pool.schedule(_work, args=(self.job, index, tries), timeout=timeout)
            except RuntimeError:  # The pool broke since the last look.
                self._replace()
                continue
            self.hand[future] = self.campaign.queue.popleft()

    def _reported(self, result: Entry | Exception) -> Entry:
        if isinstance(result, Exception):
            raise result
        return result

    def _failed(self, index: int, error: BaseException) -> Entry | None:
        """Put a block whose worker died or was killed back into the queue (None), or give it up (its entry)."""
        if isinstance(error, TimeoutError):
            return self.campaign.failed(index, Status.TIMED_OUT, f"not finished within {self.campaign.timeout:g} s")
        return self.campaign.failed(index, Status.RAISED, _cause(getattr(error, "exitcode", None)))

    def _replace(self) -> None:
        """Replace a pool that broke, without blaming a block."""
        self.breaks += 1
        self.campaign.back(list(self.hand.values()))
        self.hand.clear()
        self.gone.clear()
        self.stop()
        if self.breaks >= TRIES:
            raise RuntimeError(
                "worker processes die as they start. A script that calls simulate with workers or a timeout must do so "
                "under `if __name__ == '__main__':`; what they printed above says more. Blocks finished before are kept"
            )
        self.pool = self._open()

    def _lost(self) -> Iterator[Entry]:
        """Handle blocks whose worker has ended without a trace, such as one that ended by `os._exit(0)`."""
        gone = set()
        for future, index in list(self.hand.items()):
            claims = list(Path(self.job.claims).glob(f"{index}.{self.campaign.tries[index]}.*"))
            if not claims or any(alive(int(claim.suffix[1:])) for claim in claims) or future.done():
                continue
            if future not in self.gone:  # Its report may still be on the way.
                gone.add(future)
                continue
            future.cancel()
            del self.hand[future]
            entry = self._failed(index, RuntimeError())
            if entry is not None:
                yield entry
        self.gone = gone


# --- in the worker ------------------------------------------------------------------------------------------------

_DEVICE: list[str] = []
_WATCHER: list[Watcher] = []


def _start(job: Job) -> None:
    """Prepare a worker process. A simulator that cannot be loaded is reported with the first block."""
    if os.name != "nt":
        with suppress(PermissionError):
            os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, _end)
        _watch()
    threading.Thread(target=_follow, daemon=True).start()
    torch.set_num_threads(1)
    _DEVICE.append(own_device(job.device, Path(job.claims)))
    with suppress(Exception):
        opened(job)


def _watch() -> None:
    parent = multiprocessing.parent_process()
    _WATCHER.append(Watcher(parent=None if parent is None else parent.pid))
    _WATCHER[-1].begin()


def _follow() -> None:
    """End this worker as soon as its parent ends. If a simulator holds Python's lock, the watcher ends the worker."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _end()


def _end(*_: object) -> None:
    if os.name != "nt" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _work(job: Job, index: int, tries: int) -> Entry | Exception:
    """Run a block and commit it."""
    with suppress(OSError):
        (Path(job.claims) / f"{index}.{tries}.{os.getpid()}").touch()
    return attempt(job, index, again=tries > 0, device=_DEVICE[0])


# --- helpers ------------------------------------------------------------------------------------------------------


def _begun(beside: Executor, store: Store, made: Entry, image: bytes) -> Future[Entry] | None:
    """Write a block in another thread, and return the future of its entry; None if this is not done.

    A block is not written in another thread if it took long, or if most of its rows failed, which may end the campaign.
    This is also impossible after the main thread has ended.
    """
    if made.seconds >= _CHEAP or 2 * made.ok <= made.rows:
        return None
    try:
        return beside.submit(store.write, made, image)
    except RuntimeError:
        return None


@contextmanager
def _single_threads() -> Iterator[None]:
    """Set environment variables so that numerical libraries use one thread in workers.

    Libraries read these variables when they are loaded, in processes that are started within this context.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _cause(code: int | None) -> str:
    if code is None:
        return "its worker process ended without a word"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its worker process was killed by {name}{hint}"
    return f"its worker process ended with code {code}"
