"""Select rows of a store, shuffle them, cut them into batches, and read them from files into memory.

Rows to be shuffled are read in groups that fit in memory. The parts of the blocks are put in random order, and then the
rows of each group. Floats lie in a file as they do in memory, except for a checksum after each chunk
(`campaigns.storage.shard`). So any consecutive rows are read directly to their destination, without HDF5's checks. The
caller has verified the file as a whole. The positions of the chunks (`ChunkLayout`) are looked up once per file,
because opening a file with HDF5 takes longer than reading a megabyte.
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
    """Selected rows of one block: rows [start, stop), or those of them in a mask (stop - start,), if it is not None.

    `rows` is the number of selected rows.
    """

    block: int
    start: int
    stop: int
    wanted: np.ndarray | None
    rows: int

    @classmethod
    def of(cls, block: int, start: int, wanted: np.ndarray) -> Part:
        """Part of a block with the rows in a mask, whose first row is `start`. Its range is as short as possible."""
        found = np.flatnonzero(wanted)
        if not len(found):
            return cls(block, start, start, None, 0)
        first, end = int(found[0]), int(found[-1]) + 1
        mask = None if len(found) == end - first else wanted[first:end]
        return cls(block, start + first, start + end, mask, len(found))

    def only(self, flags: np.ndarray) -> Part:
        """The selected rows that are also in a mask of the block's rows, bool (rows of the block,)."""
        kept = flags[self.start : self.stop]
        return self.of(self.block, self.start, kept if self.wanted is None else kept & self.wanted)

    def split(self, most: int) -> Iterator[Part]:
        """Split the selected rows into parts of about equal size, with at most `most` rows each."""
        count = -(-(self.stop - self.start) // max(1, most))
        edges = [self.start + (self.stop - self.start) * i // max(1, count) for i in range(count + 1)]
        for start, stop in pairwise(edges):
            if self.wanted is None:
                yield Part(self.block, start, stop, None, stop - start)
            elif (part := self.of(self.block, start, self.wanted[start - self.start : stop - self.start])).rows:
                yield part


def select(rows: Rows | None, sizes: Sequence[tuple[int, int]]) -> list[Part]:
    """Parts of the blocks that hold the requested rows, in the order of the blocks.

    Args:
        rows: Positions of rows, counted over all blocks; all rows if None.
        sizes: Number of rows in each block, as (block, rows).

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
    """Put parts in random order and join them into groups of at most `limit` rows. A larger part is a group alone.

    Without a generator the parts stay in order, and each part is a group.
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
    """Yield the rows of groups in batches of `size` rows; only the last batch may be shorter.

    A batch may have rows of several groups, and shares no memory with them.

    Args:
        groups: Groups of rows, one after the other. A group may be overwritten when the next one is requested.
        size: Rows per batch.
        generator: Random generator that shuffles the rows within each group; without one the rows stay in order.
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
    """Copy of the rows at given positions, an int64 tensor on the batch's device."""
    return Batch(batch.theta.index_select(0, index), {k: v.index_select(0, index) for k, v in batch.x.items()})


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches into one batch."""
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
    """Uninitialised batch for rows of simulations in their stored dtypes; page-locked for copies to a GPU if pinned."""
    x = {n: torch.empty(rows, *o.shape, dtype=o.torch_dtype, pin_memory=pinned) for n, o in observables.items()}
    return Batch(torch.empty(rows, len(prior), dtype=prior.dtype, pin_memory=pinned), x)


def read_status(place: FileRange) -> np.ndarray:
    """Mask of the rows of a block's file that did not fail, bool (rows,). The caller must have verified the file."""
    with ExitStack() as stack:
        return own_dataset(place.hdf5(stack), "status")[()] == int(Status.OK)


@dataclass(frozen=True)
class ChunkLayout:
    """Positions of an array's rows in its file: chunk i begins at byte offsets[i] and holds `chunk` rows or the rest.

    `total` is the number of rows of all chunks together.
    """

    total: int
    chunk: int
    offsets: tuple[int, ...]


def layouts(place: FileRange, into: Batch) -> dict[str, ChunkLayout]:
    """Layouts of the arrays in a block's file that are stored as they are in memory, by name. Others are left out.

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
        place: Place of the file, which the caller must have verified.
        found: Result of `layouts` for the file. HDF5 reads the arrays that are not in it.
        part: Rows to read.
        into: Batch that receives the rows, on the CPU.
        at: First row of the batch to write.

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
    """Tensors of a batch: name of the array in a file -> tensor."""
    return {"theta": batch.theta, **{f"x/{name}": value for name, value in batch.x.items()}}


def _read(raw: RawIOBase | BytesIO, layout: ChunkLayout, start: int, out: np.ndarray) -> None:
    """Read consecutive rows, from row `start` on, into an array."""
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
