"""Faults found in a store: damaged blocks and failed simulations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sciinf.core.files import shown
from sciinf.core.observable import Status


@dataclass(frozen=True)
class Damage:
    """A block that was committed and can no longer be read: its number, its file, and the reason."""

    block: int
    file: Path
    reason: str


@dataclass(frozen=True)
class Failure:
    """A simulation that failed: its row in the store, its parameters (D,), its status and the reason."""

    row: int
    theta: Tensor
    status: Status
    message: str


@dataclass(frozen=True)
class StoreReport:
    """State of a store: rows present and rows wanted, rows by status, and damaged or missing blocks.

    `landed` is the number of rows that a running campaign added while the store was read.
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
