"""Which rows of a store are read, how they are mixed and cut into batches, and how they get from a file into memory.

Rows to be shuffled come in groups that fit in memory: the parts of the blocks in random order, then the rows of each
group in random order. Floats lie in their file as they do in memory, but for a checksum after each chunk
(`campaigns.storage.shard`), so any run of rows is read straight to where it is wanted, past HDF5's checks: the caller
has verified the file as a whole. Where the chunks lie (`ChunkLayout`) is looked up once, for opening a file with HDF5
takes longer than reading a megabyte.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO, RawIOBase
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.storage.place import FileRange
from sciinf.core.learned import Batch
from sciinf.core.observable import Observable, Status
from sciinf.core.prior import Prior
from sciinf.core.within import own_dataset

Rows = int | slice | range | Sequence[int] | np.ndarray | Tensor
"""Rows of a store by position: the first n, a slice or range, or positions; their order does not matter."""

GROUP_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Part:
    """Rows wanted of a block: of rows [start, stop) those that a mask (stop - start,) names, or all where it is None.

    `rows` is how many that is.
    """

    block: int
    start: int
    stop: int
    wanted: np.ndarray | None
    rows: int

    @classmethod
    def of(cls, block: int, start: int, wanted: np.ndarray) -> Part:
        """The part of the rows that a mask names, of which `start` is the first; as short a range as holds them."""
        found = np.flatnonzero(wanted)
        if not len(found):
            return cls(block, start, start, None, 0)
        first, end = int(found[0]), int(found[-1]) + 1
        mask = None if len(found) == end - first else wanted[first:end]
        return cls(block, start + first, start + end, mask, len(found))

    def only(self, flags: np.ndarray) -> Part:
        """Those rows of the part that flags (rows of the block,) has too."""
        kept = flags[self.start : self.stop]
        return self.of(self.block, self.start, kept if self.wanted is None else kept & self.wanted)

    def split(self, most: int) -> Iterator[Part]:
        """The same rows in parts of about equal size and at most `most` rows."""
        count = -(-(self.stop - self.start) // max(1, most))
        edges = [self.start + (self.stop - self.start) * i // max(1, count) for i in range(count + 1)]
        for start, stop in pairwise(edges):
            if self.wanted is None:
                yield Part(self.block, start, stop, None, stop - start)
            elif (part := self.of(self.block, start, self.wanted[start - self.start : stop - self.start])).rows:
                yield part


def select(rows: Rows | None, sizes: Sequence[tuple[int, int]]) -> list[Part]:
    """The parts of the blocks that hold the rows asked for, in the blocks' order.

    Args:
        rows: Positions over all blocks, one after the other; all where None.
        sizes: (block, rows) of each block.

    Raises:
        ValueError: If a position does not exist.
    """
    if rows is None:
        return [Part(block, 0, size, None, size) for block, size in sizes]
    total = sum(size for _, size in sizes)
    mask = _mask(rows, total)
    parts, start = [], 0
    for block, size in sizes:
        part = Part.of(block, 0, mask[start : start + size])
        if part.rows:
            parts.append(part)
        start += size
    return parts


def grouped(parts: Sequence[Part], limit: int, generator: torch.Generator | None = None) -> list[list[Part]]:
    """The parts in random order, in groups of at most `limit` rows (a larger part is alone).

    Without a generator they stay in order, each a group of its own.
    """
    if generator is None:
        return [[part] for part in parts]
    groups: list[list[Part]] = []
    held = 0
    for position in _permutation(len(parts), generator).tolist():
        part = parts[position]
        if not groups or held + part.rows > limit:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += part.rows
    return groups


def dealt(groups: Iterable[Batch], size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
    """The rows of groups in batches of `size`, of which only the last may be shorter.

    A batch may reach over groups, and shares no memory with them.

    Args:
        groups: One after the other; each is done with when the next is asked for.
        size: Rows per batch.
        generator: Shuffles the rows within each group; in order without one.
    """
    pieces: list[Batch] = []
    held = 0
    for group in groups:
        device = group.theta.device
        order = None if generator is None else _permutation(len(group), generator).to(device)
        start = 0
        while start < len(group):
            stop = min(start + size - held, len(group))
            pieces.append(_copied(group, slice(start, stop)) if order is None else take(group, order[start:stop]))
            held, start = held + stop - start, stop
            if held == size:
                yield join(pieces)
                pieces, held = [], 0
    if pieces:
        yield join(pieces)


def take(batch: Batch, index: Tensor) -> Batch:
    """Rows by position, an int64 tensor on the batch's device; a copy."""
    return Batch(batch.theta.index_select(0, index), {k: v.index_select(0, index) for k, v in batch.x.items()})


def join(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other as one."""
    if len(batches) == 1:
        return batches[0]
    x = {name: torch.cat([batch.x[name] for batch in batches]) for name in batches[0].x}
    return Batch(torch.cat([batch.theta for batch in batches]), x)


def row_bytes(prior: Prior, observables: Mapping[str, Observable]) -> int:
    """Bytes of one simulation in memory."""
    return len(prior) * prior.dtype.itemsize + sum(
        math.prod(o.shape) * o.torch_dtype.itemsize for o in observables.values()
    )


def empty(rows: int, prior: Prior, observables: Mapping[str, Observable], *, pinned: bool = False) -> Batch:
    """Memory for rows of simulations, in the dtypes they are stored in; page-locked for copies to a GPU if pinned."""
    x = {n: torch.empty(rows, *o.shape, dtype=o.torch_dtype, pin_memory=pinned) for n, o in observables.items()}
    return Batch(torch.empty(rows, len(prior), dtype=prior.dtype, pin_memory=pinned), x)


def read_status(place: FileRange) -> np.ndarray:
    """Which rows of a block's file did not fail, bool (rows,). The caller has verified the file."""
    with ExitStack() as stack:
        return own_dataset(place.hdf5(stack), "status")[()] == int(Status.OK)


@dataclass(frozen=True)
class ChunkLayout:
    """Where the rows of an array lie in its file: those of chunk i, `chunk` of them or what is left, from offsets[i].

    `total` is the rows of all chunks together.
    """

    total: int
    chunk: int
    offsets: tuple[int, ...]


def layouts(place: FileRange, into: Batch) -> dict[str, ChunkLayout]:
    """Where the arrays of a block's file lie that are there as they are in memory, by name; others are left out.

    Raises:
        OSError, KeyError: If the file is no shard.
    """
    found = {}
    with ExitStack() as stack:
        file = place.hdf5(stack)
        for name, tensor in _arrays(into).items():
            dataset, dtype = own_dataset(file, name), tensor.numpy().dtype
            if dataset.compression is not None or dataset.shuffle or dataset.dtype != dtype:
                continue
            if dataset.chunks is None or dataset.chunks[1:] != dataset.shape[1:]:
                continue
            firsts = range(0, len(dataset), dataset.chunks[0])
            rest = (0,) * (len(dataset.shape) - 1)
            offsets = (dataset.id.get_chunk_info_by_coord((first, *rest)).byte_offset for first in firsts)
            found[name] = ChunkLayout(len(dataset), dataset.chunks[0], tuple(offsets))
    return found


def read_rows(place: FileRange, found: Mapping[str, ChunkLayout], part: Part, into: Batch, at: int) -> None:
    """Read a part of a block's file into rows [at, at + part.rows) of a batch.

    Args:
        place: The file, which the caller has verified.
        found: Its `layouts`. An array that is not among them is read by HDF5.
        part: Which rows.
        into: On the CPU.
        at: Row of the batch.

    Raises:
        OSError, KeyError, ValueError: If the file is no shard, or too short.
    """
    with ExitStack() as stack:
        raw, file = place.opened(stack), None
        for name, tensor in _arrays(into).items():
            out = tensor.numpy()[at : at + part.rows]
            whole = out
            if part.wanted is not None:
                whole = np.empty((part.stop - part.start, *out.shape[1:]), out.dtype)
            if name in found:
                _read(raw, found[name], part.start, whole)
            else:
                file = file or place.hdf5(stack)
                own_dataset(file, name).read_direct(whole, np.s_[part.start : part.stop])
            if part.wanted is not None:
                np.compress(part.wanted, whole, axis=0, out=out)


def _arrays(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch by the names of their arrays in a file."""
    return {"theta": batch.theta, **{f"x/{name}": value for name, value in batch.x.items()}}


def _read(raw: RawIOBase | BytesIO, layout: ChunkLayout, start: int, out: np.ndarray) -> None:
    """Rows from `start` on into an array."""
    size, stop = out.nbytes // max(1, len(out)), start + len(out)
    if stop > layout.total:
        raise ValueError(f"it has {layout.total} rows, rows {start} to {stop - 1} were asked for")
    row = start
    while row < stop and size:
        number, within = divmod(row, layout.chunk)
        end = min(row - within + layout.chunk, stop)
        raw.seek(layout.offsets[number] + within * size)
        wanted = memoryview(out[row - start : end - start]).cast("B")
        while len(wanted):
            count = raw.readinto(wanted)
            if not count:
                raise ValueError(f"it ends before row {end}")
            wanted = wanted[count:]
        row = end


def _copied(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.theta[rows].clone(), {name: value[rows].clone() for name, value in batch.x.items()})


def _mask(rows: Rows, total: int) -> np.ndarray:
    mask = np.zeros(total, dtype=bool)
    if isinstance(rows, slice):
        mask[rows] = True
        return mask
    if isinstance(rows, int):
        if rows < 0:
            raise ValueError(f"the first {rows} rows were asked for; for the last, give slice({rows}, None)")
        rows = range(rows)
    positions = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
    if positions.dtype == bool and positions.shape == (total,):
        return positions
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise ValueError(
            f"rows must be a number, a slice, a range or positions, got {positions.dtype} of shape {positions.shape}"
        )
    if positions.size and (positions.min() < 0 or positions.max() >= total):
        raise ValueError(
            f"rows {positions.min()} to {positions.max()} were asked for, the store has rows 0 to {total - 1}"
        )
    mask[positions.astype(np.int64)] = True
    return mask


def _permutation(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).cpu()
