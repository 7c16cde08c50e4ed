"""`sciinf simulate`: run a campaign of simulations from the command line.

Three more commands are here. `sciinf work` is one of many workers on a store. `sciinf simulate --plan` begins a
campaign for such workers. `sciinf compact` turns the many small files of a store into few.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sciinf import simulate as run_campaign
from sciinf.campaigns.campaign import Engine
from sciinf.campaigns.new_process import NewProcess
from sciinf.campaigns.storage.folder import absolute
from sciinf.campaigns.storage.objects import store_at
from sciinf.campaigns.store import Store
from sciinf.campaigns.work import checked_share, noted, plan, work
from sciinf.core.simulator import Simulator
from sciinf.core.telling import ANSWER, tell
from sciinf.diagnostics.failures import look
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.steps import tell_cost
from sciinf.interfaces.commands.user_files import user_simulator


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """Options of `sciinf simulate`; they are described at `simulate`.

    Args:
        plan: Whether to begin the store without simulating, for other workers.
    """

    seed: int
    workers: int | Literal["auto"]
    engine: Engine | None
    device: str
    block: str | None
    timeout: float | None
    accept_changes: bool
    plan: bool


def work_on(folder: str, share: str, simulator: str | None, device: str | None, timeout: float | None) -> None:
    """Simulate the missing blocks of a store, beside other workers, and print what was done here.

    Args:
        folder: Folder of the store.
        share: Which worker this is: "I/N" for worker I of N.
        simulator: Path of the simulator's file; None for the file that the store records.
        device: Device on which the simulator runs; None for the device that the store records, or else the CPU.
        timeout: Seconds after which a block ends the worker; None for the limit that the store records.

    Raises:
        ValueError: If the share is invalid, or as `work` does.
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


def tell_plan(sim: Simulator, path: Path, n: int, size: Any, options: SimulateOptions) -> None:
    """Begin a campaign without simulating, and print how its workers are started.

    Args:
        sim: The simulator.
        path: Folder of the store.
        n: Rows wanted in all.
        size: Rows per block, in the form that `plan` takes.
        options: Options of the command.

    Raises:
        ValueError: As `plan` does.
    """
    how: dict[str, Any] = {name: getattr(options, name) for name in ("seed", "device", "timeout", "accept_changes")}
    store = plan(sim, path, n, block=size, **how)
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
    """Turn the many small files of a store into few, and print what was done.

    Args:
        path: Folder of the store, or a run folder, whose `simulations` are then compacted.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If the store has to be repaired first.
        OSError: If the store cannot be written.
    """
    inside = Path(path) / "simulations"
    store = Store(inside if (inside / "store.json").is_file() else path)
    done = store.compact()
    tell(done.words, ANSWER)
    tell(f"{len(store):,} simulations in {store.path}", ANSWER)


def simulate_from_file(simulator: str, n: int, out: str, options: SimulateOptions) -> None:
    """Run a campaign of simulations, and print how many rows there are and how many failed.

    Args:
        simulator: Path of the simulator's file.
        n: Rows wanted in all.
        out: Folder of the store.
        options: Options of the command.

    Raises:
        ValueError: If `block` is neither a number nor "auto", if options contradict each other, or as `simulate` does.
    """
    block = options.block
    if block is not None and block != "auto" and not (block.isdigit() and int(block) > 0):
        raise ValueError(f"--block takes a number of rows or 'auto', got {block!r}")
    if options.plan and (options.engine is not None or options.workers != 1):
        raise ValueError("--plan only begins the store; leave out either --plan, or --workers, --scheduler and --slurm")
    size: Any = int(block) if block is not None and block.isdigit() else block
    sim = user_simulator(simulator)
    tell_cost(sim, n, block=size if isinstance(size, int) else None)
    if options.plan:
        tell_plan(sim, Path(out), n, size, options)
        return
    names = ("seed", "workers", "engine", "device", "timeout", "accept_changes")
    how: dict[str, Any] = {name: getattr(options, name) for name in names}
    before = len(Store(out)) if store_at(out) is not None else 0
    with NewProcess(sim, options.device) as new:
        store = run_campaign(sim, Path(out), n, block=size, **how)
        if len(store) > before:
            steps.check_elsewhere(new, store, accept_changes=options.accept_changes)
    tell(f"{len(store):,} simulations in {store.folder.name}", ANSWER)
    for status, count in store.counts.items():
        if status != 0 and count:
            tell(f"{count:,} of them failed ({status.name.lower().replace('_', ' ')})", ANSWER)
    steps.tell_failures(look(store), store.prior)
    tell(f"digest {store.digest}", ANSWER)
