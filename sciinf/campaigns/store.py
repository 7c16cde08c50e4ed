"""Simulations on disk: a folder of blocks that survives kills, full disks and other writers.

    store.json                      what was simulated: simulator, prior, observables, seed, rows per block, rows wanted
    shards/000/00000042.h5          block 42, whole or absent (`campaigns.storage.shard`)
    journal/HOST-PID-RANDOM.jsonl   what each writing process acknowledged (`campaigns.storage.journal`)
    packs/000-1-TOKEN.tar, .json    many blocks in one file, after `compact` (`campaigns.storage.packs`)

A block is committed in these steps: build its file in memory, write it under a temporary name, fsync, rename, fsync the
folder. Only then a journal line with the file's SHA-256 is written. Blocks have no locks: writers of the same block
write the same bytes, and the last rename wins. On `s3://`, where nothing is renamed, the first put wins. `store.json`
is created by one writer, however many begin at the same time, and is changed by one writer at a time. Reading compares
the bytes with the journal before HDF5 reads them, because HDF5 can hang on damaged files. A block whose file is in no
journal counts if the hash written in it is correct. `campaigns.storage.judged` finds and verifies the blocks, and
`campaigns.storage.folder` reads and writes the files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinf.campaigns.storage import selection
from sciinf.campaigns.storage.compact import Compacted, compact
from sciinf.campaigns.storage.description import FILE, campaign, claim, describe, facts_of, naming, read_description
from sciinf.campaigns.storage.durable import writing
from sciinf.campaigns.storage.findings import Damage, Failure
from sciinf.campaigns.storage.folder import there
from sciinf.campaigns.storage.journal import JOURNAL, Entry, Journals
from sciinf.campaigns.storage.judged import Blocks, counted
from sciinf.campaigns.storage.naming import SHARDS
from sciinf.campaigns.storage.objects import folder_at
from sciinf.campaigns.storage.outcome import normalise, status_of
from sciinf.campaigns.storage.place import FileRange
from sciinf.campaigns.storage.selection import ChunkLayout, Part, Rows, dealt, empty, grouped, row_bytes, select
from sciinf.campaigns.storage.shard import read_shard, write_shard
from sciinf.core.checks import check_whole
from sciinf.core.files import sha256_of
from sciinf.core.fit import campaign_of
from sciinf.core.learned import Batch
from sciinf.core.observable import Observable, Outcome, Status
from sciinf.core.prior import Prior
from sciinf.core.simulator import Simulator
from sciinf.core.tables import html


class Store:
    """The simulations in a folder. `Store.create` makes a new store.

    `rows` is the number of rows wanted, and `len(store)` the number of rows present; they differ while a campaign is
    unfinished. `proposal` is None, or describes the distribution from which theta was drawn instead of the prior.
    `simulator` describes the simulator with which the store was begun. `accepted` lists the changes of its files that
    were declared to change no data.

    Raises:
        FileNotFoundError: If the folder holds no store.
        ValueError: If a newer version wrote the store, or `store.json` is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.folder = Path(path), folder_at(path)
        if not there(self.folder, FILE):
            inside = self.path / "simulations"
            way = (
                f"those of this run are in {inside}"
                if there(self.folder, f"simulations/{FILE}")
                else "run `sciinf simulate`"
            )
            raise FileNotFoundError(f"{self.folder.name} holds no simulations (no {FILE}); {way}")
        data = read_description(self.folder)
        self.simulator: Mapping[str, str] = data["simulator"]
        self.accepted: Sequence[Mapping[str, str]] = data.get("accepted", ())
        self.prior = Prior.from_json(data["prior"])
        self.observables = {o["name"]: Observable.from_json(o) for o in data["observables"]}
        self.seed, self.block, self.rows = int(data["seed"]), int(data["block"]), int(data["rows"])
        self._campaign, self.proposal, self.naming = campaign(data), data.get("proposal"), naming(data)
        self.known = Blocks(self.folder, self.naming, self._campaign, self.observables)
        self._layouts: dict[int, tuple[Hashable, Mapping[str, ChunkLayout]]] = {}
        self.refresh()

    @classmethod
    def create(
        cls, path: str | Path, simulator: Simulator, *, seed: int, block: int, rows: int, proposal: Any = None
    ) -> Store:
        """Create the store of a campaign in a folder, or open an existing store of the same campaign.

        Two campaigns are the same if they have the same simulator (name, code, files and settings), prior or proposal,
        observables, seed and block size. If more rows are wanted than before, the store grows; an incomplete last block
        is simulated again whole. If fewer rows are wanted, nothing changes: all rows stay, and readers take `rows=` to
        use fewer.

        Args:
            path: Folder of the store.
            simulator: Simulator of the campaign.
            seed: Seed of the campaign, a non-negative integer.
            block: Rows per block.
            rows: Total number of rows wanted.
            proposal: A `Proposal`, or its JSON description, if theta is not drawn from the prior.

        Raises:
            ValueError: If a number is out of range, or the folder holds another campaign (the message says what
                differs).
            TypeError: If the prior cannot be written as JSON.
            OSError: If the folder cannot be written.
        """
        for name, value, low in (("seed", seed, 0), ("block", block, 1), ("rows", rows, 1)):
            check_whole(name, value, low)
        folder, wanted = folder_at(path), describe(simulator, seed, block, rows, proposal)
        with writing(folder.name):
            for inside in ("", SHARDS, JOURNAL):
                folder.prepare(inside)
            held = claim(folder, wanted, simulator)
            store = cls(path)
            if store._campaign != held:
                raise ValueError(
                    f"{folder.name} was made anew by another campaign at this very moment; choose another folder"
                )
            for inside in store.known.shelf.leftovers():
                folder.prepare(inside)
        return store

    def __repr__(self) -> str:
        wanted = f" of {self.rows:,}" if len(self) < self.rows else ""
        return f"{len(self):,}{wanted} simulations of {self.simulator['name']!r}, in {self.folder.name}"

    def _repr_html_(self) -> str:
        """Description of the store for a notebook, as HTML."""
        return html(repr(self), facts=facts_of(self.prior, self.observables, self.counts, self.seed))

    # --- what is there ----------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Number of blocks of the complete store."""
        return -(-self.rows // self.block)

    def rows_of(self, index: int) -> int:
        """Number of rows of a block when it is complete; the last block may be shorter."""
        if not 0 <= index < self.blocks:
            raise ValueError(f"block {index} does not exist: {self.rows} rows are blocks 0 to {self.blocks - 1}")
        return min(self.block, self.rows - index * self.block)

    @property
    def journals(self) -> Journals:
        """Journals of the store, in which each writing process acknowledges its blocks."""
        return self.known.journals

    def file(self, index: int) -> Path:
        """Path of a block's file, existing or not; after `compact` the block may be in a pack instead."""
        return self.path / self.naming.file(SHARDS, index)

    def refresh(self) -> set[int]:
        """Read what other processes have committed since the last call; return the blocks with changed entries."""
        return self.known.refresh(self.blocks)

    def missing(self) -> list[int]:
        """Blocks still to be simulated: never committed, deleted, or shorter than they should be by now."""
        present, last = self.known.present(), self.blocks - 1
        found = [k for k in range(last) if (entry := present.get(k)) is None or entry.rows < self.block]
        return found + [last] * self.lacks(last)

    def lacks(self, index: int) -> bool:
        """Whether a block is one of the missing blocks (`missing`)."""
        entry = self.known.present().get(index)
        return entry is None or entry.rows < self.rows_of(index)

    def damaged(self) -> list[Damage]:
        """Committed blocks that are deleted or whose content is not what was committed. This reads every file."""
        return self.known.damaged()

    def __len__(self) -> int:
        return sum(entry.rows for entry in self.known.present().values())

    @property
    def counts(self) -> dict[Status, int]:
        """Number of rows for each status, zeros included."""
        total: Counter[Status] = Counter()
        for _, entry in self.entries():
            total.update(entry.counts)
        return {status: total[status] for status in Status}

    @property
    def seconds(self) -> float:
        """Wall seconds of simulation, summed over blocks (and so over workers)."""
        return sum(entry.seconds for _, entry in self.entries())

    @property
    def campaign(self) -> frozenset[str]:
        """Digests of this store and of its campaign. Stores that share one of them may share simulations."""
        return frozenset((self.digest, campaign_of(self.simulator, self.seed)))

    @property
    def digest(self) -> str:
        """SHA-256 over theta, x and status in block order. Workers, order and interruptions do not change it.

        Raises:
            ValueError: If a block is damaged.
        """
        digest = hashlib.sha256()
        for index in self.known.readable():
            entry = self.known.entry(index)
            digest.update(f"{index} {entry.rows} {entry.content}\n".encode())
        return digest.hexdigest()

    def history(self, index: int) -> list[Entry]:
        """Entries of a block, oldest first, whether its file is damaged or not."""
        return self.known.history(index)

    # --- writing ----------------------------------------------------------------------------------------------------

    def commit(self, index: int, theta: Tensor, outcome: Outcome, *, seconds: float) -> Entry:
        """Make a block durable, then acknowledge it. Committing the same block again replaces it by equal bytes.

        Args:
            index: Number of the block.
            theta: Parameters, (rows, D), of all rows of the block.
            outcome: Outcome of the rows.
            seconds: Wall seconds that the simulation took.

        Raises:
            ValueError: If the number of rows or a shape does not fit. Where files are not overwritten (`s3://`), also
                if another process wrote other rows.
            OSError: If the block cannot be written; what was committed before stays.
        """
        return self.noted(self.write(*self.prepared(index, theta, outcome, seconds)))

    def prepared(
        self,
        index: int,
        theta: Tensor,
        outcome: Outcome,
        seconds: float,
        conditions: Mapping[str, str] | None = None,
        *,
        normalised: bool = False,
    ) -> tuple[Entry, bytes]:
        """Entry of a block, and bytes of its file: everything in `commit` except the writing.

        `conditions` are versions, processor and device of the simulation. `normalised` says whether
        `campaigns.storage.outcome.normalise` has just made the outcome of these rows.

        Raises:
            ValueError: If the number of rows or a shape does not fit.
        """
        rows = self.rows_of(index)
        if tuple(theta.shape) != (rows, len(self.prior)):
            raise ValueError(f"block {index} takes theta of shape {(rows, len(self.prior))}, got {tuple(theta.shape)}")
        if not normalised:
            outcome = normalise(outcome, self.observables, rows, where=f"block {index}")
        theta = theta.detach().to("cpu", self.prior.dtype)
        image, content = write_shard(self.prior, self.observables, self._campaign, index, theta, outcome)
        sha256, counts = sha256_of(image), counted(outcome.status)
        return Entry(index, sha256, rows, content, seconds, counts, conditions or {}), image

    def write(self, entry: Entry, image: bytes) -> Entry:
        """Make a prepared block durable and acknowledge it; return its entry.

        Any thread may call this. The thread that uses the store must then call `noted` with the entry.

        Raises:
            ValueError: If another process wrote other rows, as in `commit`.
            OSError: If the block cannot be written.
        """
        index = entry.block
        with writing(self.folder.name):
            found = self.folder.commit(self.naming.file(SHARDS, index), image, lambda data: self._whole(index, data))
            entry = entry if found == image else self._of_another(entry, found)
            self.journals.append(entry)
        return entry

    def noted(self, entry: Entry) -> Entry:
        """Record the entry of a block that was just written, and return it."""
        self.known.add(entry)
        return entry

    def compact(self) -> Compacted:
        """Turn many files into few: the blocks of finished folders into packs, and journals into one journal.

        Digest and rows stay as they are. The call may be stopped at any moment and repeated. Other processes may read
        the store and write other blocks meanwhile. If the store had format 1, earlier versions of sciinf cannot read it
        afterwards.

        Raises:
            ValueError: If journals or indexes of packs are damaged; they must be repaired first.
            OSError: If a file cannot be written; nothing is lost.
        """
        self.refresh()
        with writing(self.folder.name):
            return compact(self.known, self.blocks, self.rows_of, self.block)

    # --- reading ----------------------------------------------------------------------------------------------------

    def batches(
        self,
        size: int,
        *,
        rows: Rows | None = None,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
    ) -> Iterator[Batch]:
        """Yield the rows that did not fail, in batches of `size` rows. The store may be larger than memory.

        The last batch may be shorter.

        Args:
            size: Rows per batch.
            rows: Rows of the store by position, failed rows counted: the first n, a slice or range, or positions. Their
                order does not matter. All rows by default.
            generator: Random generator that shuffles blocks, and then rows within a group of blocks that fits in
                memory. Without one, rows come in order.
            device: Device of the batches.

        Raises:
            ValueError: If a block is damaged, `rows` does not fit, or size is not positive.
        """
        if size < 1:
            raise ValueError(f"a batch has at least one row, got size={size}")
        limit = selection.GROUP_BYTES // row_bytes(self.prior, self.observables)
        groups = grouped(self.parts(rows), limit, generator)
        for batch in dealt(map(self._gathered, groups), size, generator):
            yield batch.to(device)

    def load(self, rows: Rows | None = None) -> Batch:
        """Read the rows that did not fail into memory, in order; `rows` as in `batches`."""
        return self._gathered(self.parts(rows))

    def parts(self, rows: Rows | None = None) -> list[Part]:
        """Parts of blocks with the rows that did not fail, in order. `rows` and errors are as in `batches`."""
        known = self.known.present()  # Each file is verified when it is read.
        entries = {index: known.get(index) or self.known.entry(index) for index in self.known.readable()}
        found = []
        for part in select(rows, [(index, entry.rows) for index, entry in entries.items()]):
            whole = entries[part.block].ok == entries[part.block].rows
            found.append(part if whole else part.only(self.known.checked(part.block, selection.read_status)))
        return [part for part in found if part.rows]

    def read_into(self, part: Part, batch: Batch, at: int) -> None:
        """Read one of `parts` into a batch on the CPU, from row `at` on. Errors are as in `read`."""

        def read(place: FileRange) -> None:
            stamp, known = self.known.stamp(part.block), self._layouts.get(part.block)
            if known is None or known[0] != stamp:
                known = self._layouts[part.block] = (stamp, selection.layouts(place, batch))
            selection.read_rows(place, known[1], part, batch, at)

        self.known.checked(part.block, read)

    def failures(self, limit: int = 20) -> list[Failure]:
        """The first simulations that failed, with their parameters and messages."""
        found: list[Failure] = []
        start = 0
        for index in self.known.readable():
            entry = self.known.entry(index)
            if entry.ok < entry.rows:
                theta, outcome = self.read(index)
                flags = status_of(outcome)
                for row in flags.nonzero().flatten().tolist():
                    if len(found) == limit:
                        return found
                    status = Status(int(flags[row]))
                    found.append(Failure(start + row, theta[row], status, outcome.messages.get(row, "")))
            start += entry.rows
        return found

    def read(self, index: int) -> tuple[Tensor, Outcome]:
        """Read theta (rows, D) and outcome of one block, failed rows included.

        Raises:
            ValueError: If the block is damaged or missing.
        """
        return self.known.checked(index, lambda place: read_shard(place.data(), self.observables))

    def _gathered(self, parts: Sequence[Part]) -> Batch:
        """Read the rows of parts into one batch."""
        batch = empty(sum(part.rows for part in parts), self.prior, self.observables)
        for part, end in zip(parts, accumulate(part.rows for part in parts), strict=True):
            self.read_into(part, batch, end - part.rows)
        return batch

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Yield the blocks whose files are present, with their entries, unverified except where journals disagree."""
        yield from sorted(self.known.present().items())

    def _whole(self, index: int, data: bytes) -> bool:
        """Whether a file holds all rows of a block."""
        try:
            return self.known.adopt(index, data).rows >= self.rows_of(index)  # Another process may have more rows.
        except ValueError:
            return False

    def _of_another(self, own: Entry, data: bytes) -> Entry:
        """Entry of a block that another process wrote first, if its rows are the same as those of this process."""
        found = self.known.adopt(own.block, data)
        if found.content == own.content:
            return replace(own, sha256=found.sha256)  # The same rows, written by another version of HDF5.
        given_up = [{Status.RAISED, Status.TIMED_OUT} >= set(entry.counts) for entry in (own, found)]
        if found.rows > own.rows or any(given_up):
            return found
        raise ValueError(
            f"block {own.block} of {self.folder.name} exists already, and its rows differ from those simulated here: "
            "another state of the simulator, other versions of libraries, or another kind of processor. The existing "
            "block stays; let machines of one kind write one store, or simulate into another folder"
        )
