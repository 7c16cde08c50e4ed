"""A campaign: blocks that wait, how often each was tried, and what becomes of one that cannot be finished.

Every engine runs a campaign in its own way (here, in worker processes, on a cluster, as an array of jobs) and leaves
to it what must not differ between them. A block whose worker died, or that ran past its deadline, costs a try. After
`TRIES` of them the block is committed as failed rows and the campaign goes on. A block tried again waits behind a few
others, so that one bad block does not look like a bad simulator.
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
LOOK = 2.0  # s between two looks at what others have committed
_RARELY = 20  # times longer than a look takes
_BEHIND = 4


@final
class Campaign:
    """What engines share.

    Args:
        store: Where the blocks go.
        simulator: What is run.
        blocks: Which blocks.
        device: Where the simulator runs.
        timeout: Seconds after which a block is given up; None for never.
    """

    def __init__(
        self, store: Store, simulator: Simulator, blocks: Sequence[int], *, device: str, timeout: float | None
    ) -> None:
        self.store, self.simulator, self.device, self.timeout = store, simulator, device, timeout
        self.queue = deque(blocks)
        self.tries: Counter[int] = Counter()
        self._lacking: set[int] | None = None  # when this campaign first looked; others are there, and damaged
        self._next = 0.0

    def take(self) -> int | None:
        """The next block, or None if none waits."""
        return self.queue.popleft() if self.queue else None

    def landed(self, index: int) -> Entry | None:
        """A block that somebody else has committed since this campaign began; the store is looked at now and then."""
        started = time.monotonic()
        if started >= self._next:
            self.store.refresh()
            self._lacking = set(self.store.missing()) if self._lacking is None else self._lacking
            self._next = time.monotonic() + max(LOOK, _RARELY * (time.monotonic() - started))
        was_missing = self._lacking is not None and index in self._lacking
        return self.store.history(index)[-1] if was_missing and not self.store.lacks(index) else None

    def back(self, blocks: Sequence[int]) -> None:
        """Put blocks back that nobody's fault kept from being run; they come first."""
        self.queue.extendleft(sorted(blocks, reverse=True))

    def failed(self, index: int, status: Status, reason: str) -> Entry | None:
        """A block whose worker died, or which took too long: once more (None), or given up (what was committed)."""
        self.tries[index] += 1
        if self.tries[index] < TRIES:
            self.queue.insert(min(len(self.queue), _BEHIND), index)
            return None
        self.store.refresh()
        if not self.store.lacks(index):  # it died between the commit and the report
            return self.store.history(index)[-1]
        message = f"quarantined after {TRIES} tries: {reason}; the rows of this block may not all be to blame"
        return give_up(self.store, index, status, message, seconds=(self.timeout or 0.0) * TRIES)


def check_engine(engine: object, workers: int | str) -> None:
    """Refuse what is no engine, and an engine beside a number of workers.

    Raises:
        TypeError: If it is none.
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
    """Where blocks run. One that is described by a few numbers and can be used again."""

    @abstractmethod
    def check(self, simulator: Simulator, path: str | Path | None = None) -> None:
        """Refuse a simulator, or a place for a store, that its workers could not see, before there is a store.

        Args:
            simulator: What will be run.
            path: Where the store will be; None where it is there already.

        Raises:
            ValueError: If it cannot be sent to them, or they cannot share what is kept beside a store there.
        """

    @abstractmethod
    def run(self, campaign: Campaign) -> Generator[Entry, None, None]:
        """Simulate the blocks that wait; yields each as it is committed, in whatever order.

        Close the iterator (`contextlib.closing`) to stop what runs; what is in flight is then lost.

        Raises:
            ValueError: If the simulator breaks its promises.
            OSError: If the store cannot be written.
            RuntimeError: If workers die as they start.
        """
