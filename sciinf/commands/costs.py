"""What simulations and a network will take of disk and memory, said before it is too late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.commands.caller import Say
from sciinf.telling import tell

if TYPE_CHECKING:
    from sciinf.core import Estimator, Simulator

_DISK, _MEMORY = 20e9, 1e9  # bytes from which it is worth a line
_TRAINED = 16  # bytes of a parameter in training: itself, its gradient and two averages


def tell_cost(
    simulator: Simulator,
    rows: int,
    *,
    block: int | None = None,
    estimator: Estimator | None = None,
    say: Say = tell,
) -> None:
    """One line where it is much.

    Args:
        simulator: What is run.
        rows: Simulations in all.
        block: Rows simulated at once; the simulator's own where left out.
        estimator: What is trained, if anything.
        say: Where the line goes.
    """
    from sciinf.storage.selection import row_bytes

    one = row_bytes(simulator.prior, simulator.observables)
    at_once = min(rows, block or simulator.block)
    parameters = sum(p.numel() for p in estimator.parameters()) if estimator is not None else 0
    if rows * one < _DISK and at_once * one < _MEMORY and parameters * _TRAINED < _MEMORY:
        return
    words = (
        f"{rows:,} simulations of {_bytes(one)} each take {_bytes(rows * one)} of disk, and {_bytes(at_once * one)} "
    )
    words += f"of memory for {at_once:,} at once"
    if estimator is not None:
        words += f"; the network has {parameters:,} parameters, {_bytes(parameters * _TRAINED)} in training"
    say(f"warning: {words}. Data of fewer numbers or a smaller block of the simulator take less")


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size} bytes"
