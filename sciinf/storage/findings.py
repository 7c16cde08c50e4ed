"""What is found wrong in a store: blocks that are damaged, simulations that failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sciinf.core.simulator import Status


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
