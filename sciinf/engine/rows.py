"""The rows of a store for training: a training and a validation part, in memory or streamed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from sciinf.core import Batch
from sciinf.store import Store

FEWEST_TRAIN, FEWEST_VALIDATION = 18, 2


class Rows:
    """The rows of a store that did not fail; the last ones, by position, are for validation.

    Args:
        store: The simulations.
        fraction: Share of the store, failed rows counted, that is held out.
        device: Where the batches go.
        memory: Bytes up to which all rows are kept on the device; beyond, they are streamed from the store.

    Raises:
        ValueError: If fewer than 20 rows are usable.
    """

    def __init__(self, store: Store, *, fraction: float, device: str, memory: int) -> None:
        self.store, self.device = store, device
        total = len(store)
        held_out = max(min(FEWEST_VALIDATION, total), round(total * fraction))
        self._parts = {False: slice(0, total - held_out), True: slice(total - held_out, total)}
        bytes_of = (math.prod(o.shape) * o.torch_dtype.itemsize for o in store.observables.values())
        self._memory: dict[bool, Batch] | None = None
        if total * (4 * len(store.prior) + sum(bytes_of)) <= memory:
            self._memory = {validation: store.load(part).to(device) for validation, part in self._parts.items()}
            counts = {validation: len(rows) for validation, rows in self._memory.items()}
        else:
            counts = {validation: self._count(part) for validation, part in self._parts.items()}
        self.train, self.held_out = counts[False], counts[True]
        if self.train < FEWEST_TRAIN or self.held_out < FEWEST_VALIDATION:
            raise ValueError(
                f"{self.train} simulations for training and {self.held_out} for validation are usable of {total} in "
                f"{store.path}; at least {FEWEST_TRAIN} and {FEWEST_VALIDATION} are needed: simulate more rows"
            )

    def epoch(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Shuffled training batches of `size` rows; the incomplete last one is left out."""
        if self._memory is None:
            part = self._parts[False]
            for batch in self.store.batches(size, rows=part, generator=generator, device=self.device):
                if len(batch) == size:
                    yield batch
            return
        order = torch.randperm(self.train, generator=generator).to(self.device)
        for start in range(0, self.train - size + 1, size):
            yield self._memory[False].rows(order[start : start + size])

    def ordered(self, size: int, *, validation: bool) -> Iterator[Batch]:
        """All rows of one part in order."""
        if self._memory is None:
            yield from self.store.batches(size, rows=self._parts[validation], device=self.device)
            return
        rows = self._memory[validation]
        for start in range(0, len(rows), size):
            yield rows.rows(slice(start, start + size))

    def _count(self, part: slice) -> int:
        return sum(len(batch) for batch in self.store.batches(65_536, rows=part))
