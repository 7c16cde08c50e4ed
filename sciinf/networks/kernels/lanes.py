r"""Rows of a batch side by side: compiled loops work on them in lanes, on as many cores as are given.

The rows of a batch are cut into L lanes, which depend on its size alone. What a loop gives for a row is the same in any
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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from torch import Tensor

_LEAST = 250  # of a lane at least: what a lane costs however few it has is small beside that
_MOST = 8  # lanes
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@dataclass
class Sharing:
    """By how many cores loops are shared, and the most items that there have been to share."""

    cores: int
    most: int = 1


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
    count = max(1, min(rows, points // _LEAST, _MOST))
    return list(pairwise(rows * k // count for k in range(count + 1)))


def together(call: Callable[[_Item], _Found], items: Sequence[_Item]) -> list[_Found]:
    """What a call gives for each item, in their order; worked on side by side where cores are `shared`.

    This thread works, too, and what it does by itself it does on one core.
    """
    sharing = _now.get()
    if sharing is not None:
        sharing.most = max(sharing.most, len(items))
    if sharing is None or min(sharing.cores, len(items)) < 2:
        return [call(item) for item in items]
    found, left = dict[int, _Found](), iter(enumerate(items))

    def work() -> None:
        for number, item in left:
            found[number] = call(item)

    others = list[Future[None]]()
    try:
        for _ in range(min(sharing.cores, len(items)) - 1):
            with suppress(RuntimeError):  # after the main thread's end there are no more threads to be had
                others.append(_pool(sharing.cores - 1, os.getpid()).submit(work))
        with shared(1):
            work()
    finally:
        _wait(others)
    for other in others:
        other.result()  # raises what its thread has raised
    return [found[number] for number in range(len(items))]


def _wait(others: Sequence[Future[None]]) -> None:
    """Until all are done, for they work on memory of the caller's; an interrupt comes afterwards."""
    interrupt: KeyboardInterrupt | None = None
    while not all(other.done() for other in others):
        try:
            wait(others)
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


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
