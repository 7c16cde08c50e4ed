"""`sciinf simulate`: a campaign from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sciinf import simulate as run_campaign
from sciinf.commands import steps
from sciinf.commands.costs import tell_cost
from sciinf.commands.user_files import user_simulator
from sciinf.commands.working import tell_plan
from sciinf.telling import ANSWER, tell
from sciinf.trust.failures import look


def simulate_from_file(simulator: str, n: int, out: str, block: str | None, given: Mapping[str, Any]) -> None:
    """Run the campaign, and say what became of its rows.

    Args:
        simulator: Path of its file.
        n: Rows wanted in all.
        out: Folder of the store.
        block: Rows per batch, a number or "auto"; None for the simulator's own.
        given: Other options, as `simulate` takes them.

    Raises:
        ValueError: If `block` is neither, options contradict each other, or as `simulate` does.
    """
    if block is not None and block != "auto" and not (block.isdigit() and int(block) > 0):
        raise ValueError(f"--block takes a number of rows or 'auto', got {block!r}")
    given = dict(given)
    planned = given.pop("plan")
    if planned and (given["engine"] is not None or given["workers"] != 1):
        raise ValueError("--plan only begins the store; leave --workers, --scheduler and --slurm out, or --plan")
    size: Any = int(block) if block is not None and block.isdigit() else block
    sim = user_simulator(simulator)
    tell_cost(sim, n, block=size if isinstance(size, int) else None)
    if planned:
        tell_plan(
            sim,
            Path(out),
            n,
            size,
            {name: given[name] for name in given if name not in ("workers", "engine", "progress")},
        )
        return
    store = run_campaign(sim, Path(out), n, block=size, **given)
    tell(f"{len(store):,} simulations in {store.folder.name}", ANSWER)
    for status, count in store.counts.items():
        if status != 0 and count:
            tell(f"{count:,} of them failed ({status.name.lower().replace('_', ' ')})", ANSWER)
    steps.tell_failures(look(store), store.prior)
    tell(f"digest {store.digest}", ANSWER)
