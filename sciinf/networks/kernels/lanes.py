r"""Parallel execution of C kernels: the rows of a batch are divided into lanes, which several cores share.

The rows of a batch are divided into L lanes; L depends on the batch size alone. The result for a row does not depend on
its lane. Sums over rows, such as the gradients of weights, are added in the order of the lanes,

    g = g_1 + ... + g_L,

so the sums are equal, bit for bit, for any number of cores. The cores run threads of one process, because the kernels
release Python's global lock while they work. Threads share the weights and the rows without copies, and leave nothing
behind if the training is killed.

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

_LEAST = 250  # Least points per lane. With so many, the fixed cost of a lane is negligible.
_MOST = 8  # Largest number of lanes.
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@dataclass
class Sharing:
    """Number of cores that share the kernels' work, and the largest number of work items that occurred so far."""

    cores: int
    most: int = 1


_now: ContextVar[Sharing | None] = ContextVar("_now", default=None)


@contextmanager
def shared(cores: int) -> Iterator[Sharing]:
    """A `with` block in which `cores` cores share the kernel calls of this thread."""
    sharing = Sharing(cores)
    token = _now.set(sharing)
    try:
        yield sharing
    finally:
        _now.reset(token)


def cores_here() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def lanes(rows: int, points: int) -> list[tuple[int, int]]:
    """Row ranges (start, stop) of the lanes, of nearly equal length.

    Args:
        rows: Number of rows to divide.
        points: Number of points in all rows together.
    """
    count = max(1, min(rows, points // _LEAST, _MOST))
    return list(pairwise(rows * k // count for k in range(count + 1)))


def together(call: Callable[[_Item], _Found], items: Sequence[_Item]) -> list[_Found]:
    """Results of `call` for each item, in the order of the items.

    Inside a `shared` block, several threads work on the items in parallel. The calling thread works on items too. A
    nested call of this function within an item uses one core.
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
            with suppress(RuntimeError):  # Python starts no new thread once the main thread has ended.
                others.append(_pool(sharing.cores - 1, os.getpid()).submit(work))
        with shared(1):
            work()
    finally:
        _wait(others)
    for other in others:
        other.result()  # Raise the exception of that thread, if it had one.
    return [found[number] for number in range(len(items))]


def _wait(others: Sequence[Future[None]]) -> None:
    """Wait until all threads are done, because they write into memory of the caller; then raise a pending interrupt."""
    interrupt: KeyboardInterrupt | None = None
    while not all(other.done() for other in others):
        try:
            wait(others)
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def side_by_side(function: Any, arguments: Sequence[tuple[Any, ...]]) -> None:
    """Call a C function once for each lane, in parallel if cores are `shared`.

    Args:
        function: Function of a compiled library. It returns a value other than 0 if it cannot allocate memory.
        arguments: Arguments of the function for each lane.

    Raises:
        MemoryError: If a call could not allocate its working memory.
    """
    if any(together(lambda given: function(*given), arguments)):
        raise MemoryError("there is no memory for a block of points")


class Sums:
    """Gradients of weights, stored separately for each lane and then added.

    Args:
        weights: Weights whose gradients are stored.
        count: Number of lanes.

    Attributes:
        lanes: For each lane, one gradient tensor for each weight. The kernels fill these tensors.
    """

    def __init__(self, weights: Sequence[Tensor], count: int) -> None:
        sizes = [one.numel() for one in weights]
        self._all = weights[0].new_empty(count, sum(sizes))
        self.lanes = [
            [part.view_as(one) for part, one in zip(row.split(sizes), weights, strict=True)] for row in self._all
        ]

    def added(self) -> list[Tensor]:
        """Sums of the gradients over the lanes, one tensor for each weight."""
        first, *rest = self._all
        for other in rest:
            first += other
        return self.lanes[0]


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of threads, cached per process id because a forked process does not inherit the threads of its parent."""
    return ThreadPoolExecutor(threads, thread_name_prefix="sciinf-lane")
