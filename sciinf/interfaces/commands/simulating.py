"""`sciinf simulate`: a campaign from the command line.

Also `sciinf work`, one worker of many on a store, `sciinf simulate --plan`, which begins a campaign for them, and
`sciinf compact`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sciinf import simulate as run_campaign
from sciinf.campaigns.new_process import NewProcess
from sciinf.campaigns.storage.address import store_at
from sciinf.campaigns.storage.folder import absolute
from sciinf.campaigns.store import Store
from sciinf.campaigns.work import checked_share, noted, plan, work
from sciinf.core.simulator import Simulator
from sciinf.core.telling import ANSWER, tell
from sciinf.diagnostics.failures import look
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.steps import tell_cost
from sciinf.interfaces.commands.user_files import user_simulator


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


def compact_store(path: str) -> None:
    """Compact a store, and say what was done.

    Args:
        path: Its folder, or a run folder, whose simulations are then compacted.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it has to be repaired first.
        OSError: If it cannot be written.
    """
    inside = Path(path) / "simulations"
    store = Store(inside if (inside / "store.json").is_file() else path)
    done = store.compact()
    tell(done.words, ANSWER)
    tell(f"{len(store):,} simulations in {store.path}", ANSWER)


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
    before = len(Store(out)) if store_at(out) is not None else 0
    with NewProcess(sim, given["device"]) as new:
        store = run_campaign(sim, Path(out), n, block=size, **given)
        if len(store) > before:
            steps.check_elsewhere(new, store, accept_changes=given["accept_changes"])
    tell(f"{len(store):,} simulations in {store.folder.name}", ANSWER)
    for status, count in store.counts.items():
        if status != 0 and count:
            tell(f"{count:,} of them failed ({status.name.lower().replace('_', ' ')})", ANSWER)
    steps.tell_failures(look(store), store.prior)
    tell(f"digest {store.digest}", ANSWER)
