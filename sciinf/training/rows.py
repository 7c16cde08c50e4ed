"""Training and validation rows of a store, in memory or streamed from disk.

Rows that do not fit in the given memory, of M bytes, are streamed. Each epoch takes the training rows in parts of
blocks, in random order. As many parts as fill a buffer of g = (M - V) / 8 bytes are one group. The rows of a group are
shuffled and cut into batches. V is the size of the validation rows if they fit in M / 2 and are kept; otherwise V = 0
and they are streamed too. Two such buffers are filled by turns in a background thread, and a batch is a copy. So rows
take V + 2 g, two batches, and 8 bytes for the place of each row of a group in its order: at most a quarter of M - V and
two batches. Streamed validation rows take a batch. The rest is for what the network makes of a batch, several times its
size.

A group has eight parts or more, from anywhere in the store. Every shard is verified once, when the rows are opened,
and again only when its file has changed.

The thread works ahead (`read_ahead`). At most two items exist at a time. The thread makes item i + 2 only when the
consumer has finished with item i, which it has when it asks for item i + 1. With r the time to make an item and u the
time it is in use, n items take r + n max(r, u) instead of n (r + u), on machines where the two do not share a
processor.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from queue import SimpleQueue
from typing import Any, TypeVar, final

import torch

from sciinf.campaigns.storage.selection import Part, dealt, empty, grouped, row_bytes
from sciinf.campaigns.store import Store
from sciinf.core import Batch
from sciinf.training.source import Source, in_order, shuffled

T = TypeVar("T")

ITEMS = 2  # At most this many items are made and still in use.


def read_ahead(source: Callable[[threading.Event], Generator[T, None, None]]) -> Generator[T, None, None]:
    """The items of a source, each made in a background thread while the item before is in use.

    Close the iterator (`contextlib.closing`) if it may not be exhausted. The thread has ended when the iterator is
    closed, exhausted or collected, or has raised. An interpreter that exits ends the thread too.

    Args:
        source: Function that takes an event and returns a generator. The generator runs in the thread. It should return
            soon after the event is set, which means that no more items are wanted.

    Raises:
        BaseException: Any error that the source raises, when the turn of that item comes.
    """
    stop, permits = threading.Event(), threading.Semaphore(ITEMS)
    made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    thread = threading.Thread(target=_make, args=(source, stop, permits, made), name="sciinf read-ahead", daemon=True)

    def end() -> None:
        stop.set()
        permits.release()
        thread.join()

    thread.start()
    atexit.register(end)
    try:
        while True:
            what, value = made.get()
            if what == "end":
                return
            if what == "error":
                raise value
            yield value
            del value
            permits.release()
    finally:
        atexit.unregister(end)
        end()


def _make(
    source: Callable[[threading.Event], Generator[Any, None, None]],
    stop: threading.Event,
    permits: threading.Semaphore,
    made: SimpleQueue[tuple[str, Any]],
) -> None:
    """Put items into a queue as permits allow, and then the end or the error."""
    try:
        with closing(source(stop)) as items:
            while True:
                permits.acquire()
                if stop.is_set():
                    return
                made.put(("item", next(items)))
    except StopIteration:
        made.put(("end", None))
    except BaseException as error:
        made.put(("error", error))


FEWEST_TRAIN, FEWEST_VALIDATION = 18, 2
SHARES = 8  # The memory would hold this many buffers.
PARTS = 8  # A group has at least this many parts.
SMALLEST = 2**20  # Bytes of a buffer, even if less memory is given.
LARGEST = 2**24  # Bytes of a batch in order, because networks need several times as much memory for it.


class Rows(Source):
    """The rows of a store that did not fail; the last rows, by position, are for validation.

    The rows are settled when this object is built: rows that are simulated later do not count. The batches of an epoch
    depend on the store, the generator's state and the size of a batch. If rows are streamed, the batches depend on
    `memory` and `readers` too, because these set how many rows are shuffled at a time.

    Args:
        store: The simulations.
        fraction: Share of the store that is held out. Failed rows are counted too.
        device: Device for the batches.
        memory: Bytes of rows to have in memory, on the device if all rows fit. Beyond this, rows are streamed from the
            store. The buffers, together with the batches made from them, then stay below this size. Each buffer has at
            least 1 MiB.
        readers: Number of epochs that will be open at a time and share the memory.

    Raises:
        ValueError: If fewer than 18 training rows or 2 validation rows did not fail, or a block is damaged.
    """

    def __init__(self, store: Store, *, fraction: float, device: str, memory: int, readers: int = 1) -> None:
        self.store, self.device = store, torch.device(device)
        self.stream = Stream(store, self.device)
        total = len(store)
        held_out = max(min(FEWEST_VALIDATION, total), round(total * fraction))
        ranges = {False: slice(0, total - held_out), True: slice(total - held_out, total)}
        parts = {validation: store.parts(rows) for validation, rows in ranges.items()}
        counts = {validation: sum(part.rows for part in found) for validation, found in parts.items()}
        self.train, self.held_out = counts[False], counts[True]
        if self.train < FEWEST_TRAIN or self.held_out < FEWEST_VALIDATION:
            raise ValueError(self._shortage(total, held_out))
        used = self.train + self.held_out
        self._record = {"digest": store.digest, "seed": store.seed, "rows": total}
        self._record.update(used=used, held_out=self.held_out)
        if store.proposal is not None:
            self._record["proposal"] = {name: value for name, value in store.proposal.items() if name != "rows_of"}
        size = row_bytes(store.prior, store.observables)
        if used * size <= memory:
            kept = (False, True)
        else:
            kept = (True,) if self.held_out * size <= memory // 2 else ()
        self._memory = {validation: store.load(ranges[validation]).to(self.device) for validation in kept}
        free = memory - sum(counts[validation] * size for validation in kept)
        self._limit = max(free // (SHARES * readers), SMALLEST) // size or 1
        self._piece = self._limit // PARTS or 1
        self._largest = min(LARGEST // size, self._limit // 4 if len(kept) < 2 else used) or 1
        self._parts = {v: [p for part in found for p in part.split(self._piece)] for v, found in parts.items()}

    def _shortage(self, total: int, last: int) -> str:
        """Message about too few usable rows, with advice.

        Args:
            total: Number of rows of the store, failed rows counted.
            last: Number of held-out rows, failed rows counted.
        """
        cure = "simulate more rows"
        if self.train >= FEWEST_TRAIN and last >= FEWEST_VALIDATION:
            cure = (
                f"{last - self.held_out} of the last {last} rows, which are held out, failed; look at them with "
                "`sciinf check` and mend the simulator, or hold out more with Recipe(validation_fraction=...)"
            )
        return (
            f"{self.train} simulations for training and {self.held_out} for validation are usable of {total} in "
            f"{self.store.folder.name}; at least {FEWEST_TRAIN} and {FEWEST_VALIDATION} are needed: {cure}"
        )

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Generator[Batch, None, None]:
        """Shuffled training batches; see `Source.epoch`. Close the iterator if it may not be exhausted."""
        rows = self._memory.get(False)
        if rows is None:
            with closing(self._streamed(False, size, generator)) as batches:
                yield from (batch for batch in batches if len(batch) == size)
            return
        yield from shuffled(rows, size, generator)

    def ordered(self, size: int, *, validation: bool) -> Generator[Batch, None, None]:
        """All rows of one part in order, in batches of at most `size`; wide or streamed rows get smaller batches."""
        rows, size = self._memory.get(validation), min(size, self._largest)
        if rows is None:
            with closing(self._streamed(validation, size, None)) as batches:
                yield from batches
            return
        yield from in_order(rows, size)

    def record(self) -> dict[str, Any]:
        """Digest, seed and proposal (if any) of the store, its number of rows, and how many are usable and held out."""
        return dict(self._record)

    def _streamed(self, validation: bool, size: int, generator: torch.Generator | None) -> Generator[Batch, None, None]:
        groups = grouped(self._parts[validation], self._limit, generator)
        yield from self.stream.batches(groups, size, generator)


@final
class Stream:
    """Reader that yields batches from a store, and reads the next rows while a batch is in use.

    Args:
        store: Store that holds the rows.
        device: Device for the batches.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store, self.device = store, device

    def batches(
        self, groups: Sequence[Sequence[Part]], size: int, generator: torch.Generator | None = None
    ) -> Generator[Batch, None, None]:
        """Batches on the device. Close the iterator if it may not be exhausted.

        Args:
            groups: Groups of parts. One group is in memory at a time, one after the other.
            size: Rows per batch, of which only the last may be shorter.
            generator: Shuffles the rows within each group. Without one, rows come in order.

        Raises:
            ValueError: If a block is damaged.
        """
        with (
            closing(read_ahead(lambda stop: self._filled(groups, stop))) as read,
            closing(self._moved(read)) as moved,
        ):
            yield from dealt(moved, size, generator)

    def _filled(self, groups: Sequence[Sequence[Part]], stop: threading.Event) -> Generator[Batch, None, None]:
        """The rows of each group, read into two buffers by turns."""
        rows = max(sum(part.rows for part in group) for group in groups)
        store, pinned = self.store, self.device.type == "cuda"
        buffers = [empty(rows, store.prior, store.observables, pinned=pinned) for _ in groups[:2]]
        for number, group in enumerate(groups):
            buffer, end = buffers[number % 2], 0
            for part in group:
                if stop.is_set():
                    return
                store.read_into(part, buffer, end)
                end += part.rows
            yield buffer.rows(slice(0, end))

    def _moved(self, groups: Iterator[Batch]) -> Generator[Batch, None, None]:
        """Copy each group to the device; a buffer is filled again only after its copy is done."""
        for group in groups:
            if self.device.type != "cuda":
                yield group.to(self.device)
                continue
            x = {name: value.to(self.device, non_blocking=True) for name, value in group.x.items()}
            moved = Batch(group.theta.to(self.device, non_blocking=True), x)
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self.device))
            yield moved
            copied.synchronize()
