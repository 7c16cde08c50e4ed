r"""Parts of a batch side by side: the loss and its slopes for each by itself, on as many cores as there are.

A batch of B rows is cut into P parts of B_p rows, which depend on B alone, and

    loss = sum_p (B_p / B) loss_p,    slopes = sum_p (B_p / B) slopes_p,

are added up in the order of the parts: so a training is the same, bit for bit, on any number of cores. Batches of
validation rows stay whole, and are worked on side by side. The cores are threads of one process: compiled loops and
torch's operations let go of Python while they work, the weights and the rows are there already, and nothing is left
behind by a training that is killed.

References:
    | PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., 2020),
      https://arxiv.org/abs/2006.15704
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf import telling
from sciinf.core import Batch
from sciinf.engine.learner import Learner

ROWS = 500  # of a part at least: what a part costs however few rows it has is small beside that
_TRIED = 5  # times that a batch is timed on one core and on several
_WORTH = 0.9  # share of one core's time that several may take at most

_Item = TypeVar("_Item")
Losses = Callable[[Batch, torch.Generator], Float[Tensor, " member"]]


class Parts:
    """Slopes of a learner by parts.

    Args:
        learner: Whose slopes; its rows are `apart`.
        losses: Mean loss of each member on rows, which draws from the generator.
        cores: How many parts are worked on at once; "auto" takes as many as there are, if that is faster for the first
            batch.
        shown: Whether it says on the standard error what it takes.
    """

    def __init__(self, learner: Learner, losses: Losses, cores: int | Literal["auto"], *, shown: bool) -> None:
        self.learner, self.losses, self._shown = learner, losses, shown
        self._cores: int | None = None if cores == "auto" else cores
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " member"]:
        """Mean loss of each member, with its slopes in those of the weights."""
        seeds = torch.randint(2**62, (count_of(batch),), generator=generator)
        if self._cores is None:
            self._cores = self._chosen(batch, seeds)
        if self._pool is None and self._cores > 1:
            self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="sciinf-part")
        return self._found(batch, seeds, self._pool)

    def each(self, function: Callable[[_Item], Tensor], items: Iterable[_Item]) -> list[Tensor]:
        """What a function gives for each item, in their order.

        Once a step was shared by N cores, N items are read and worked on at once, then the next N. Before, and on one
        core, they go one after the other.
        """
        if self._pool is None or self._cores is None:
            return list(map(function, items))
        found, rest = list[Tensor](), iter(items)
        while group := list(islice(rest, self._cores)):
            found += self._pool.map(function, group)
            group.clear()  # before more are read
        return found

    def _found(self, batch: Batch, seeds: Tensor, pool: ThreadPoolExecutor | None) -> Tensor:
        rows, slopes = batch.theta.shape[-2], self.learner.slopes
        pieces = cut(batch, len(seeds))
        found = (map if pool is None else pool.map)(self._one, pieces, seeds.tolist())
        total, shares = torch.zeros_like(slopes[:, 0]), [piece.theta.shape[-2] / rows for piece in pieces]
        slopes.zero_()
        for share, (losses, own) in zip(shares, found, strict=True):
            total.add_(losses, alpha=share)
            slopes.add_(own, alpha=share)
        return total

    def _one(self, piece: Batch, seed: int) -> tuple[Tensor, Tensor]:
        losses = self.losses(piece, torch.Generator().manual_seed(seed))
        return losses.detach(), self.learner.slopes_of(losses.sum())

    def _chosen(self, batch: Batch, seeds: Tensor) -> int:
        """How many cores; each way is timed at its best, one after the other and again."""
        cores = min(len(seeds), cores_here())
        if cores == 1:
            return 1
        with ThreadPoolExecutor(cores) as pool:
            ways = (None, pool)
            times = [[self._timed(batch, seeds, way) for way in ways] for _ in range(_TRIED)]
        one, several = (min(column) for column in zip(*times, strict=True))
        chosen = cores if several <= _WORTH * one else 1
        if self._shown:
            found = f"{cores} cores make a step {one / several:.2f} times as fast"
            telling.tell(f"training on {chosen} core{'s' * (chosen > 1)}: {found}")
        return chosen

    def _timed(self, batch: Batch, seeds: Tensor, pool: ThreadPoolExecutor | None) -> float:
        started = time.perf_counter()
        self._found(batch, seeds, pool)
        return time.perf_counter() - started


def count_of(batch: Batch) -> int:
    """How many parts a batch has: it depends on its rows alone."""
    return max(1, batch.theta.shape[-2] // ROWS)


def cut(batch: Batch, count: int) -> list[Batch]:
    """Parts of a batch, (rows, ...) or (members, rows, ...), as even as can be."""
    axis = batch.theta.ndim - 2
    theta = batch.theta.tensor_split(count, dim=axis)
    x = {name: value.tensor_split(count, dim=axis) for name, value in batch.x.items()}
    return [Batch(one, {name: value[k] for name, value in x.items()}) for k, one in enumerate(theta)]


def cores_here() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
