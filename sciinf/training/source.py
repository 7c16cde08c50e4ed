"""Sources of training rows: the rows of a store, or a simulator that runs while the network trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch

from sciinf.campaigns.storage.selection import take
from sciinf.core import Batch


class Source(ABC):
    """Training and validation rows, as batches on the training device.

    `train` is the number of rows of one epoch, and `held_out` that of the fixed validation set. `settled` is the first
    epoch that has all rows, from which patience counts, or -1 if all epochs have all rows.
    """

    train: int
    held_out: int
    settled: int = -1

    @abstractmethod
    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Shuffled training batches of `size` rows; an incomplete last batch is left out.

        Args:
            number: Number of the epoch, from 0. The batches depend only on it, the generator's state and the source, so
                a training that was killed goes on with the same batches.
            size: Rows per batch.
            generator: Generator for the shuffling, on the CPU.
        """

    @abstractmethod
    def ordered(self, size: int, *, validation: bool) -> Iterator[Batch]:
        """All rows of the validation set, or enough training rows for statistics, in a fixed order."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Origin of the rows, as plain JSON values: the entry "store" of `fit.json`."""


def shuffled(rows: Batch, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Rows in memory, each at most once, in batches of `size`; an incomplete last batch is left out."""
    order = torch.randperm(len(rows), generator=generator, device=generator.device).to(rows.theta.device)
    for start in range(0, len(rows) - size + 1, size):
        yield take(rows, order[start : start + size])


def in_order(rows: Batch, size: int) -> Iterator[Batch]:
    """Rows in memory as batches of `size`, which are views; the last batch may be shorter."""
    for start in range(0, len(rows), size):
        yield rows.rows(slice(start, start + size))
