"""Which rows of a store are read, and how they are mixed and cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sciinf.core.estimator import Batch

Rows = int | slice | range | Sequence[int] | np.ndarray | Tensor
"""Rows of a store by position: the first n, a slice or range, or positions; their order does not matter."""

GROUP_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Part:
    """The rows wanted of one block: a mask (rows,), or None for all, and how many that is."""

    block: int
    wanted: np.ndarray | None
    rows: int


def select(rows: Rows | None, sizes: Sequence[tuple[int, int]]) -> list[Part]:
    """The parts of the blocks that hold the rows asked for, in the blocks' order.

    Args:
        rows: Positions over all blocks, one after the other; all where None.
        sizes: (block, rows) of each block.

    Raises:
        ValueError: If a position does not exist.
    """
    if rows is None:
        return [Part(block, None, size) for block, size in sizes]
    total = sum(size for _, size in sizes)
    mask = _mask(rows, total)
    parts, start = [], 0
    for block, size in sizes:
        wanted = mask[start : start + size]
        count = int(wanted.sum())
        if count:
            parts.append(Part(block, None if count == size else wanted, count))
        start += size
    return parts


def mixed(
    parts: Sequence[Part], read: Callable[[Part], Batch], row_bytes: int, generator: torch.Generator
) -> Iterator[Batch]:
    """The parts in random order, a group at a time in memory, with the rows of each group shuffled."""
    group: list[Batch] = []
    held = 0
    for position in _permutation(len(parts), generator).tolist():
        part = parts[position]
        if group and (held + part.rows) * row_bytes > GROUP_BYTES:
            yield _shuffled(group, generator)
            group, held = [], 0
        group.append(read(part))
        held += part.rows
    if group:
        yield _shuffled(group, generator)


def recut(pieces: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows in batches of `size`; only the last may be shorter."""
    rest: list[Batch] = []
    held = 0
    for piece in pieces:
        start = min(size - held, len(piece)) if held else 0
        if start:
            rest.append(piece.rows(slice(0, start)))
            held += start
            if held < size:
                continue
            yield join(rest)
            rest, held = [], 0
        whole = start + (len(piece) - start) // size * size
        for at in range(start, whole, size):
            yield piece.rows(slice(at, at + size))
        if whole < len(piece):
            rest, held = [piece.rows(slice(whole, None))], len(piece) - whole
    if rest:
        yield join(rest)


def join(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other as one."""
    if len(batches) == 1:
        return batches[0]
    x = {name: torch.cat([batch.x[name] for batch in batches]) for name in batches[0].x}
    return Batch(torch.cat([batch.theta for batch in batches]), x)


def _mask(rows: Rows, total: int) -> np.ndarray:
    mask = np.zeros(total, dtype=bool)
    if isinstance(rows, slice):
        mask[rows] = True
        return mask
    if isinstance(rows, int):
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


def _shuffled(group: list[Batch], generator: torch.Generator) -> Batch:
    batch = join(group)
    return batch.rows(_permutation(len(batch), generator))
