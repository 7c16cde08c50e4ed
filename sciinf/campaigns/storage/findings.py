"""What is found wrong in a store: blocks that are damaged, simulations that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sciinf.core.files import shown
from sciinf.core.observable import Status


@dataclass(frozen=True)
class Damage:
    """A block that was committed and can no longer be read: which, its file, and what is wrong."""

    block: int
    file: Path
    reason: str


@dataclass(frozen=True)
class Failure:
    """A simulation that failed: its row in the store, its parameters (D,), what became of it and why."""

    row: int
    theta: Tensor
    status: Status
    message: str


@dataclass(frozen=True)
class StoreReport:
    """The state of a store: rows there and asked for, what became of them, and what is damaged or missing.

    `landed` is how many rows were added while it was read: a campaign runs.
    """

    rows: int
    wanted: int
    counts: Mapping[Status, int]
    damaged: tuple[Damage, ...]
    missing: tuple[int, ...]
    lines_damaged: tuple[str, ...] = ()
    indexes_damaged: tuple[str, ...] = ()
    landed: int = 0

    @property
    def ok(self) -> bool:
        return not (self.damaged or self.lines_damaged or self.indexes_damaged)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        counts = ", ".join(f"{n:,} {s.name.lower().replace('_', ' ')}" for s, n in self.counts.items() if n)
        lines = [f"{self.rows:,} of {self.wanted:,} simulations ({counts or 'none yet'})"]
        lines += [f"damaged: block {d.block}, {shown(d.file)}: {d.reason}" for d in self.damaged]
        lines += [f"damaged: {line}" for line in (*self.lines_damaged, *self.indexes_damaged)]
        if self.landed:
            lines.append(f"a campaign runs: {self.landed:,} simulations landed while this was read")
        if self.missing:
            lines.append(f"still to be simulated: {len(self.missing)} blocks")
        parts = [f"{len(self.damaged)} blocks"] * bool(self.damaged)
        parts += [f"{len(self.lines_damaged)} lines of journals"] * bool(self.lines_damaged)
        parts += [f"{len(self.indexes_damaged)} indexes of packs"] * bool(self.indexes_damaged)
        return [*lines, f"{' and '.join(parts)} are damaged" if parts else "no damage"]
