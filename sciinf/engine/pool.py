"""Blocks in worker processes, for simulators that hang, crash, or use one processor each.

A worker commits its block itself and reports only that it did. A worker that dies, or a block past its deadline, costs
a try; after `TRIES` of them the block is committed as failed rows and the campaign goes on. A block tried again waits
behind a few others, so that one bad block does not look like a bad simulator. Workers end with their parent, however
it ends, and take with them the programs their simulator has started.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import pickletools
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sciinf.core.files import alive
from sciinf.core.simulator import Simulator, Status, identity, load_simulator
from sciinf.engine.block import give_up, run_block
from sciinf.storage.folder import absolute
from sciinf.storage.journal import Entry
from sciinf.store import Store

if TYPE_CHECKING:
    from pebble import ProcessPool

TRIES = 3
_BEHIND = 4
_TICK = 2.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What a worker needs to know.

    Args:
        store: The store's folder.
        source: The simulator's file, which the worker loads; None for one that was pickled.
        pickled: The simulator itself where it has no file.
        device: Where it runs.
        claims: A folder in which workers note which block they have begun.
        identity: What the simulator was known by as the campaign began (`core.identity`).
    """

    store: str
    source: str | None
    pickled: bytes | None
    device: str
    claims: str
    identity: tuple[tuple[str, str], ...]


def run_in_workers(
    store: Store,
    simulator: Simulator,
    blocks: Sequence[int],
    *,
    workers: int,
    device: str | torch.device,
    timeout: float | None,
) -> Generator[Entry, None, None]:
    """Simulate blocks in worker processes; yields each as it is committed, in whatever order.

    Close the iterator (`contextlib.closing`) to stop the workers; what they have in flight is then lost.

    Args:
        store: Where the blocks go.
        simulator: One that was loaded from a file, or that pickles.
        blocks: Which blocks.
        workers: How many processes.
        device: Where the simulator runs.
        timeout: Seconds after which a block is given up; None for never.

    Raises:
        ValueError: If the simulator can be neither loaded by path nor pickled, or breaks its promises.
        RuntimeError: If workers die as they start.
        OSError: If the store cannot be written.
    """
    pickled = _pickled(simulator) if simulator.source is None else None
    source = None if simulator.source is None else str(simulator.source)
    with tempfile.TemporaryDirectory(prefix="sciinf-") as claims, _single_threads():
        job = Job(absolute(store.path), source, pickled, str(device), claims, _known(simulator))
        crew = _Crew(job, store, deque(blocks), min(workers, max(1, len(blocks))), timeout)
        try:
            yield from crew.run()
        finally:
            crew.stop()


class _Crew:
    """The workers, the blocks waiting for them, and the blocks they have in hand."""

    def __init__(self, job: Job, store: Store, queue: deque[int], workers: int, timeout: float | None) -> None:
        self.job, self.store, self.queue, self.workers, self.timeout = job, store, queue, workers, timeout
        self.tries: Counter[int] = Counter()
        self.hand: dict[Future[Any], int] = {}
        self.gone: set[Future[Any]] = set()
        self.breaks = 0
        self.pool = self._open()

    def run(self) -> Iterator[Entry]:
        """Entries of blocks as they are committed."""
        looked = time.monotonic()
        while self.queue or self.hand:
            self._schedule()
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

    def _schedule(self) -> None:
        while self.queue and len(self.hand) <= self.workers:
            index = self.queue[0]
            try:
                future = self.pool.schedule(_work, args=(self.job, index, self.tries[index]), timeout=self.timeout)
            except RuntimeError:  # the pool broke since we last looked
                self._replace()
                continue
            self.hand[future] = self.queue.popleft()

    def _reported(self, result: Entry | Exception) -> Entry:
        if isinstance(result, Exception):
            raise result
        return result

    def _failed(self, index: int, error: BaseException) -> Entry | None:
        """A block whose worker died or was killed: once more, or given up."""
        if isinstance(error, TimeoutError):
            status, reason = Status.TIMED_OUT, f"not finished within {self.timeout:g} s"
        else:
            status, reason = Status.RAISED, _cause(getattr(error, "exitcode", None))
        self.tries[index] += 1
        if self.tries[index] < TRIES:
            self.queue.insert(min(len(self.queue), _BEHIND), index)
            return None
        self.store.refresh()
        if index not in self.store.missing():  # it died between the commit and the report
            return self.store.history(index)[-1]
        message = f"quarantined after {TRIES} tries: {reason}; the rows of this block may not all be to blame"
        return give_up(self.store, index, status, message, seconds=(self.timeout or 0.0) * TRIES)

    def _replace(self) -> None:
        """A new pool for one that broke, which is nobody's fault in particular."""
        self.breaks += 1
        self.queue.extendleft(sorted(self.hand.values(), reverse=True))
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
        """Blocks whose worker is gone without a trace, such as one that left by `os._exit(0)`."""
        gone = set()
        for future, index in list(self.hand.items()):
            claims = list(Path(self.job.claims).glob(f"{index}.{self.tries[index]}.*"))
            if not claims or any(alive(int(claim.suffix[1:])) for claim in claims) or future.done():
                continue
            if future not in self.gone:  # its report may still be on the way
                gone.add(future)
                continue
            future.cancel()
            del self.hand[future]
            entry = self._failed(index, RuntimeError())
            if entry is not None:
                yield entry
        self.gone = gone


# --- in the worker ------------------------------------------------------------------------------------------------


def _start(job: Job) -> None:
    """Prepare a worker; a simulator that cannot be loaded is reported with the first block."""
    if os.name != "nt":
        with suppress(PermissionError):
            os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_follow, daemon=True).start()
    torch.set_num_threads(1)
    with suppress(Exception):
        _opened(job)


def _follow() -> None:
    """End when the parent does, even if it was killed and the simulator hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _end()


def _end(*_: object) -> None:
    if os.name != "nt" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


@lru_cache(maxsize=1)
def _opened(job: Job) -> tuple[Simulator, Store]:
    simulator = load_simulator(job.source) if job.source is not None else pickle.loads(job.pickled or b"")
    store = Store(job.store)
    if _known(simulator) != job.identity:
        raise ValueError(
            f"{job.source}, or a file beside it, has changed since the campaign began; run the command again"
        )
    return simulator, store


def _work(job: Job, index: int, tries: int) -> Entry | Exception:
    """Run a block and commit it. Errors are returned, so that what the pool raises is the pool's own."""
    with suppress(OSError):
        (Path(job.claims) / f"{index}.{tries}.{os.getpid()}").touch()
    try:
        simulator, store = _opened(job)
        if tries:
            store.refresh()
            if index not in store.missing():
                return store.history(index)[-1]
        return run_block(simulator, store, index, device=job.device)
    except (ValueError, TypeError, MemoryError, OSError) as error:
        return error if type(error).__module__ == "builtins" else ValueError(f"{type(error).__name__}: {error}")
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")


# --- helpers ------------------------------------------------------------------------------------------------------


def _known(simulator: Simulator) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(identity(simulator).items()))


def check_sendable(simulator: Simulator) -> None:
    """Refuse a simulator that worker processes could not see, such as one of a notebook.

    Raises:
        ValueError: If it can be neither loaded by path nor pickled for them.
    """
    if simulator.source is None:
        _pickled(simulator)


def _pickled(simulator: Simulator) -> bytes:
    why = "it is defined in a notebook or at the prompt, which they do not see"
    try:
        data = pickle.dumps(simulator)
        if _main_is_seen() or not any(_names_main(argument) for _, argument, _ in pickletools.genops(data)):
            return data
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    raise ValueError(
        f"the simulator {simulator.name!r} was made in this session and cannot be sent to worker processes ({why}). "
        "Save it in a .py file that ends with `simulator = ...` and load it with load_simulator(path), or use "
        "workers=1 without a timeout"
    )


def _main_is_seen() -> bool:
    """Whether new processes find what is defined in the main module: in a script, and not in a notebook."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (file is not None and Path(file).is_file())


def _names_main(argument: object) -> bool:
    """Whether an argument of a pickle is the name of the main module, alone or before that of something in it."""
    return isinstance(argument, str) and argument.split(" ")[0] == "__main__"


@contextmanager
def _single_threads() -> Iterator[None]:
    """One thread per worker: libraries read these variables as they are loaded, in processes started meanwhile."""
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
