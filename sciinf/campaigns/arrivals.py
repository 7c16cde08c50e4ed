"""Blocks of a store, read as a running campaign commits them.

A block counts as committed when a journal acknowledges it, or when the hash within its file is correct. The store uses
the same definition. The block's bytes are compared with the journal or the hash before they are used. If the bytes do
not agree, another process may be replacing the block at this moment, because the file is written before the journal's
line. Such a block counts as absent and is checked again. It is reported as damaged after it has stayed so for a minute.
Blocks of failed rows count like other blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import final

from torch import Tensor

from sciinf.campaigns.storage.description import campaign, read_description
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.store import Store
from sciinf.core import telling
from sciinf.core.observable import Outcome

# POLL is the shortest pause between two looks, in seconds. A pause is also SHARE times as long as a look, or longer.
POLL, SHARE = 1.0, 20.0
EVERY = 60.0  # Seconds between two messages about awaited simulations.
# For this many seconds a block's bytes may differ from those committed: the longest delay of a network file system.
DOUBT = 60.0


@final
class Arrivals:
    """The first rows of a campaign, as they arrive in its store.

    Args:
        store: Store into which the campaign writes.
        rows: Number of rows that are wanted, counted from the first row of the campaign.
        shown: Whether to report which simulations are awaited.
    """

    def __init__(self, store: Store, rows: int, *, shown: bool) -> None:
        self.store, self.rows, self._shown = store, rows, shown
        self.campaign = campaign_in(store)
        self.read: dict[int, Entry] = {}
        self.waited = 0.0
        self._doubts: dict[int, float] = {}
        self._count, self._landed = -1, time.monotonic()

    @property
    def blocks(self) -> int:
        """Number of blocks that hold the wanted rows."""
        return -(-self.rows // self.store.block)

    @property
    def complete(self) -> bool:
        """Whether every block has been read."""
        return len(self.read) == self.blocks

    @property
    def there(self) -> int:
        """Number of rows that have been read, failed rows included."""
        return sum(map(self.rows_of, self.read))

    def rows_of(self, index: int) -> int:
        """Number of rows that are wanted from a block."""
        return min(self.store.block, self.rows - index * self.store.block)

    def committed(self) -> dict[int, Entry]:
        """Committed blocks that hold all their wanted rows: block number -> entry, in order.

        Raises:
            ValueError: If the folder holds another campaign by now.
            FileNotFoundError: If the store is gone.
        """
        if campaign_in(self.store) != self.campaign:
            raise ValueError(
                f"{self.store.folder.name} holds another campaign than when this training began: its simulator, prior, "
                "seed or block has changed; train on it in another folder"
            )
        self.store.refresh()
        found = {k: e for k, e in self.store.entries() if k < self.blocks and e.rows >= self.rows_of(k)}
        if len(found) != self._count:
            self._count, self._landed = len(found), time.monotonic()
        return found

    def news(self, only: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor, Outcome]]:
        """Yield number, theta (rows, D) and outcome of each new block, verified.

        A block is new if it was not read before.

        Args:
            only: Block numbers to read, in this order; all blocks in ascending order by default.

        Raises:
            ValueError: If a block is damaged, or as `committed` does.
        """
        if self.complete:
            return
        known = self.committed()
        for index in known if only is None else only:
            if index in self.read or index not in known:
                continue
            try:
                theta, outcome = self.store.read(index)
                if len(theta) != known[index].rows:
                    raise ValueError(f"block {index} has {len(theta)} rows, {known[index].rows} were committed")
            except ValueError as error:
                self._doubt(index, error)
                continue
            self.read[index] = known[index]
            yield index, theta, outcome

    def polls(self, need: Callable[[], str], *, patience: float = 0.0) -> Iterator[None]:
        """Yield at once, and then after each pause for as long as the caller iterates.

        The simulations that are awaited are reported.

        Args:
            need: Function that returns, in words, what is present and what is needed.
            patience: Seconds of waiting before the first report.
        """
        told = time.monotonic() + patience - EVERY
        while True:
            started = time.monotonic()
            yield
            now = time.monotonic()
            if now - told >= EVERY:
                told = now
                self._tell(need(), now - self._landed)
            pause = min(EVERY, max(POLL, SHARE * (now - started)))
            time.sleep(pause)
            self.waited += pause

    def _tell(self, need: str, silent: float) -> None:
        if not self._shown:
            return
        words = f"waiting for simulations: {need}"
        if silent >= EVERY:
            words += (
                f"; none has come for {silent / 60:,.0f} min. If the campaign has stopped, start it again as it was "
                "begun; Ctrl-C ends this training, and the same command goes on with it"
            )
        telling.tell(words)

    def _doubt(self, index: int, error: ValueError) -> None:
        """Record a block that cannot be read; raise the error if that has lasted `DOUBT` seconds."""
        now = time.monotonic()
        if index not in self._doubts and self._shown:
            telling.tell(f"note: block {index} cannot be read yet and counts as not there ({error})", telling.DETAIL)
        if now - self._doubts.setdefault(index, now) >= DOUBT:
            raise error


def campaign_in(store: Store) -> str:
    """Digest of the campaign that a store's folder holds now (`store.json`)."""
    return campaign(read_description(store.folder))
