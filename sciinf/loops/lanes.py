r"""Rows of a batch side by side: compiled loops work on them in lanes, on as many cores as are given.

The B rows of a batch are cut into L lanes, which depend on B alone. What a loop gives for a row is the same in any
lane; sums over rows, the gradients of weights, are added up in the order of the lanes,

    g = g_1 + ... + g_L,

so that they are the same, bit for bit, on any number of cores. The cores are threads of one process: loops let go of
Python while they work, the weights and the rows are there already, and nothing is left behind by a training that is
killed.

References:
    | PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., 2020),
      https://arxiv.org/abs/2006.15704
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from torch import Tensor

_POINTS = 250  # of a lane at least: what a lane costs however few it has is small beside that
_MOST = 8  # lanes
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@dataclass
class Sharing:
    """By how many cores loops are shared, and whether there was anything to share."""

    cores: int
    used: bool = False


_now: ContextVar[Sharing | None] = ContextVar("_now", default=None)


@contextmanager
def shared(cores: int) -> Iterator[Sharing]:
    """A `with` block in which this thread's loops are shared by so many cores."""
    sharing = Sharing(cores)
    token = _now.set(sharing)
    try:
        yield sharing
    finally:
        _now.reset(token)


def cores_here() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def lanes(rows: int, points: int) -> list[tuple[int, int]]:
    """(start, stop) of lanes, as even as can be, of rows that have so many points in all."""
    count = max(1, min(rows, points // _POINTS, _MOST))
    return list(pairwise(rows * k // count for k in range(count + 1)))


def together(call: Callable[[_Item], _Found], items: Sequence[_Item]) -> list[_Found]:
    """What a call gives for each item, in their order; worked on side by side where cores are `shared`.

    This thread works, too, and what it does by itself it does on one core.
    """
    sharing = _now.get()
    cores = 1 if sharing is None else min(sharing.cores, len(items))
    if sharing is None or cores < 2:
        return [call(item) for item in items]
    sharing.used = True
    found, left = dict[int, _Found](), iter(enumerate(items))

    def work() -> None:
        for number, item in left:
            found[number] = call(item)

    others = [_pool(sharing.cores - 1, os.getpid()).submit(work) for _ in range(cores - 1)]
    try:
        with shared(1):
            work()
    finally:
        wait(others)
    for other in others:
        other.result()  # raises what its thread has raised
    return [found[number] for number in range(len(items))]


def side_by_side(function: Any, arguments: Sequence[tuple[Any, ...]]) -> None:
    """Call a function of a library with the arguments of each lane.

    Raises:
        MemoryError: If it says that there is no memory for what it has to keep.
    """
    if any(together(lambda given: function(*given), arguments)):
        raise MemoryError("there is no memory for a block of points")


class Sums:
    """Gradients of weights, which each lane has for itself.

    Args:
        weights: Whose.
        count: How many lanes.

    Attributes:
        lanes: A tensor for each weight, for each lane.
    """

    def __init__(self, weights: Sequence[Tensor], count: int) -> None:
        sizes = [one.numel() for one in weights]
        self._all = weights[0].new_empty(count, sum(sizes))
        self.lanes = [
            [part.view_as(one) for part, one in zip(row.split(sizes), weights, strict=True)] for row in self._all
        ]

    def added(self) -> list[Tensor]:
        """Their sums over the lanes."""
        first, *rest = self._all
        for other in rest:
            first += other
        return self.lanes[0]


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads, which a process that was forked does not have."""
    return ThreadPoolExecutor(threads, thread_name_prefix="sciinf-lane")
