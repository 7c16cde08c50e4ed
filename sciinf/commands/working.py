"""`sciinf work`: one worker of many on a store; and `sciinf simulate --plan`, which begins a campaign for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sciinf.commands.user_files import user_simulator
from sciinf.core.simulator import Simulator
from sciinf.engine.work import checked_share, noted, plan, work
from sciinf.storage.folder import absolute, store_at
from sciinf.store import Store
from sciinf.telling import ANSWER, tell


def work_on(folder: str, share: str, simulator: str | None, device: str | None, timeout: float | None) -> None:
    """Simulate what a store lacks, beside other workers, and say what was done here.

    Args:
        folder: Of the store.
        share: "I/N".
        simulator: Path of the simulator's file; None for the one that the store notes.
        device: Where it runs; None for what the store notes, or the CPU.
        timeout: Seconds after which a block ends the worker; None for what the store notes.

    Raises:
        ValueError: If the share makes no sense, or as `work` does.
    """
    checked = checked_share(share)
    if store_at(folder) is None:
        raise ValueError(
            f"{folder} holds no campaign (no store.json); begin it with `sciinf simulate SIM.py -n N --out {folder} "
            "--plan`, and run this again"
        )
    store = Store(folder)
    note = noted(store) if simulator is None else {}
    sim = user_simulator(simulator or note["source"])
    found = work(
        store,
        sim,
        share=checked,
        device=device or note.get("device") or "cpu",
        timeout=note.get("timeout") if timeout is None else timeout,
    )
    rows, ok = sum(entry.rows for entry in found), sum(entry.ok for entry in found)
    failed = f", {rows - ok:,} of them failed" if ok < rows else ""
    made = (
        f"{rows:,} simulations in {len(found):,} blocks were made here{failed}" if found else "nothing was to be done"
    )
    tell(f"{made}; {store.folder.name} is complete", ANSWER)


def tell_plan(sim: Simulator, path: Path, n: int, size: int | str | None, given: Mapping[str, Any]) -> None:
    """Begin a campaign, and say how workers are started.

    Args:
        sim: What will be run.
        path: Folder of the store.
        n: Rows wanted in all.
        size: Rows per block, as `plan` takes them.
        given: Other options of `plan`.

    Raises:
        ValueError: As `plan` does.
    """
    store = plan(sim, path, n, block=size, **given)
    missing, where = len(store.missing()), absolute(store.folder)
    tell(
        f"{store.path}: {missing:,} of {store.blocks:,} blocks of {store.block:,} rows are to be simulated, by any "
        f"number of workers, with nothing between them but this folder:\n"
        f"  sciinf work {where}\n"
        f"  sciinf work {where} --share I/40    as task I of 40 of a queue, 0 to 39 or 1 to 40\n"
        "A worker that was stopped or killed goes on when it is started again. When all have ended, look for faults:\n"
        f"  sciinf check {where}",
        ANSWER,
    )
