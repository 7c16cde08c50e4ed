"""A campaign: the queue of blocks, the number of tries of each block, and giving up blocks that cannot be finished.

Every engine runs a campaign in its own way: in this process, in worker processes, on a cluster, or as an array of jobs.
This module holds what must be the same for all of them. A try is lost when a block's worker dies or a block passes its
deadline. After `TRIES` tries the block is committed as failed rows, and the campaign goes on. A block that is tried
again waits behind a few other blocks. So one bad block does not look like a bad simulator.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import final

from sciinf.campaigns.block import give_up
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.store import Store
from sciinf.core.observable import Status
from sciinf.core.simulator import Simulator

TRIES = 3
LOOK = 2.0  # Seconds between two looks at blocks committed by other processes.
_RARELY = 20  # The pause after a look is this many times longer than the look.
_BEHIND = 4


@final
class Campaign:
    """State of a campaign that all engines share.

    Args:
        store: Store that receives the blocks.
        simulator: The simulator to run.
        blocks: Numbers of the blocks to simulate.
        device: Device on which the simulator runs.
        timeout: Seconds after which a block is given up; None for never.
    """

    def __init__(
        self, store: Store, simulator: Simulator, blocks: Sequence[int], *, device: str, timeout: float | None
    ) -> None:
        self.store, self.simulator, self.device, self.timeout = store, simulator, device, timeout
        self.queue = deque(blocks)
        self.tries: Counter[int] = Counter()
        self._lacking: set[int] | None = None  # Blocks missing at the first look; others exist but are damaged.
        self._next = 0.0

    def take(self) -> int | None:
        """Remove and return the next block of the queue, or None if the queue is empty."""
        return self.queue.popleft() if self.queue else None

    def landed(self, index: int) -> Entry | None:
        """Entry of a block that another process has committed since this campaign began; None if there is none.

        The store is read again only now and then.
        """
        started = time.monotonic()
        if started >= self._next:
            self.store.refresh()
            self._lacking = set(self.store.missing()) if self._lacking is None else self._lacking
            self._next = time.monotonic() + max(LOOK, _RARELY * (time.monotonic() - started))
        was_missing = self._lacking is not None and index in self._lacking
        return self.store.history(index)[-1] if was_missing and not self.store.lacks(index) else None

    def back(self, blocks: Sequence[int]) -> None:
        """Put blocks back at the front of the queue, without counting a try."""
        self.queue.extendleft(sorted(blocks, reverse=True))

    def failed(self, index: int, status: Status, reason: str) -> Entry | None:
        """Count a failed try of a block whose worker died or which took too long.

        The block returns to the queue, and the result is None. After `TRIES` tries it is given up, and its entry is
        returned.
        """
        self.tries[index] += 1
        if self.tries[index] < TRIES:
            self.queue.insert(min(len(self.queue), _BEHIND), index)
            return None
        self.store.refresh()
        if not self.store.lacks(index):  # The worker died after the commit and before the report.
            return self.store.history(index)[-1]
        message = f"quarantined after {TRIES} tries: {reason}; the rows of this block may not all be to blame"
        return give_up(self.store, index, status, message, seconds=(self.timeout or 0.0) * TRIES)


def check_engine(engine: object, workers: int | str) -> None:
    """Refuse an object that is no engine, and an engine that is given together with a number of workers.

    Raises:
        TypeError: If the object is no engine.
        ValueError: If workers are given too.
    """
    if engine is None:
        return
    if not isinstance(engine, Engine):
        raise TypeError(f"engine is where blocks run, such as Workers(4), got {type(engine).__name__}")
    if workers != 1:
        raise ValueError(
            f"simulations run in {workers} workers of this machine or by the engine {type(engine).__name__}: give one "
            "of the two (--workers, or --scheduler or --slurm)"
        )


class Engine(ABC):
    """A way to run blocks, described by a few numbers. The same engine can be used again."""

    @abstractmethod
    def check(self, simulator: Simulator, path: str | Path | None = None) -> None:
        """Refuse a simulator, or a path for a store, that the engine's workers could not use, before there is a store.

        Args:
            simulator: The simulator to run.
            path: Future path of the store; None if the store exists already.

        Raises:
            ValueError: If the simulator cannot be sent to the workers, or they cannot share files beside a store at
                this path.
        """

    @abstractmethod
    def run(self, campaign: Campaign) -> Generator[Entry, None, None]:
        """Simulate the blocks in the queue; yield the entry of each block when it is committed, in any order.

        Close the iterator (`contextlib.closing`) to stop the workers; unfinished blocks are then lost.

        Raises:
            ValueError: If the simulator does not return what its observables promise.
            OSError: If the store cannot be written.
            RuntimeError: If workers die as they start.
        """
