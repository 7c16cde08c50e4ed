"""Blocks of a store that a campaign goes on writing, as they are committed.

A block counts when a journal acknowledges it or when the hash within its file holds, which is what a store means by
committed; its bytes are compared with either before they are used. A block whose bytes do not agree may be replaced at
this moment, for the file comes before the line in the journal: it counts as not there, is looked at again, and is told
as damaged when it has stayed so for a minute. Blocks of failed rows are there like others.
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

POLL, SHARE = 1.0, 20.0  # seconds between two looks, at least; and how much longer than a look takes
EVERY = 60.0  # seconds between two words about what is waited for
DOUBT = 60.0  # seconds for which a block may be unlike what was committed; a network's file system lags no longer


@final
class Arrivals:
    """What has come of the first rows of a campaign.

    Args:
        store: Where the campaign writes.
        rows: How many of its rows are wanted, the first ones.
        shown: Whether it says what is waited for.
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
        """Blocks in all."""
        return -(-self.rows // self.store.block)

    @property
    def complete(self) -> bool:
        """Whether every block has been read."""
        return len(self.read) == self.blocks

    @property
    def there(self) -> int:
        """Rows that have been read, failed ones counted."""
        return sum(map(self.rows_of, self.read))

    def rows_of(self, index: int) -> int:
        """Rows that are wanted of a block."""
        return min(self.store.block, self.rows - index * self.store.block)

    def committed(self) -> dict[int, Entry]:
        """The whole blocks that are there now, in order.

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
        """Number, theta (rows, D) and outcome of each block that has come and was not read before; verified.

        Args:
            only: Which blocks, in this order; all, in order, where left out.

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
        """Yields at once, and then again and again, as long as somebody goes on asking; says what is waited for.

        Args:
            need: In words, what is there and what is needed.
            patience: Seconds of waiting before it is said.
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
        """Take note of a block that cannot be read; raise when that has lasted."""
        now = time.monotonic()
        if index not in self._doubts and self._shown:
            telling.tell(f"note: block {index} cannot be read yet and counts as not there ({error})", telling.DETAIL)
        if now - self._doubts.setdefault(index, now) >= DOUBT:
            raise error


def campaign_in(store: Store) -> str:
    """Which campaign a store's folder is of, as it says now."""
    return campaign(read_description(store.folder))
