"""Run a simulator on draws of its prior and store the results: in batches, resumable, in one process or several.

The store alone decides what is done, and a campaign is a list of blocks. Each block depends only on the campaign's seed
and the block's number. So stopping and resuming, the number of workers and their order do not change the stored
simulations.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch

from sciinf.campaigns.beginning import CampaignSpec, begin, check_own
from sciinf.campaigns.block import give_up, one_thread, propose, run_block
from sciinf.campaigns.campaign import Campaign, Engine, check_engine
from sciinf.campaigns.interrupts import interruptible
from sciinf.campaigns.sent import check_sendable
from sciinf.campaigns.store import Store
from sciinf.campaigns.tally import failed_of, in_words, mostly_failing, refuse
from sciinf.campaigns.work import note_of
from sciinf.campaigns.workers import Here, Workers
from sciinf.core import telling
from sciinf.core.checks import check_workers
from sciinf.core.observable import Status
from sciinf.core.progress import Progress
from sciinf.core.proposal import Proposal
from sciinf.core.simulator import Simulator
from sciinf.networks.kernels.lanes import cores_here

_STARTING = 10.0  # Seconds that workers must save, because starting them takes some seconds.


def simulate(
    simulator: Simulator,
    path: str | Path,
    n: int,
    *,
    seed: int = 0,
    workers: int | Literal["auto"] = 1,
    device: str | torch.device = "cpu",
    block: int | Literal["auto"] | None = None,
    timeout: float | None = None,
    progress: bool = True,
    proposal: Proposal | None = None,
    accept_changes: bool = False,
    engine: Engine | None = None,
) -> Store:
    """Simulate n draws of the prior (or of a proposal), or those of them that are still missing.

    Rows that raise, are not finite or time out are stored with their status and message. They are left out of training
    and calibration, and a warning says how many there are. One process simulates on one thread, so that results do not
    depend on the machine's number of processors. Use workers to employ more processors.

    If the store has simulations already, a few of them are made again in this process and compared bit by bit
    (`campaigns.again`). So simulations of another state of the simulator are not mistaken for its own.

    Args:
        simulator: The simulator to run.
        path: Folder of the store, or `s3://BUCKET/PREFIX` (`campaigns.storage.objects`). An unfinished campaign is
            continued, and a finished one is returned at once. If n is larger than before, rows are added.
        n: Total number of rows wanted.
        seed: Seed of the campaign; other seeds give independent simulations.
        workers: Number of processes. With more than one, the simulator must be loaded from a file, or be picklable; a
            simulator defined in a notebook is not. "auto" times a block, and starts one process for each core if that
            saves more time than starting them costs. The simulations are the same.
        device: Device on which the simulator runs.
        block: Rows per batch: by default the simulator's own number (`simulator.block`) or that of the store; "auto" to
            measure. The block size is part of the campaign: another block size gives other random numbers.
        timeout: Seconds after which a block is killed. The block is tried again, and is finally given up as
            `Status.TIMED_OUT`. The simulator then runs in a process of its own. All rows of the block are lost, so
            choose small blocks.
        progress: Whether to report progress on the standard error.
        proposal: Distribution from which theta is drawn instead of the prior. The store records the proposal, and the
            campaign differs from a campaign with the prior. The proposal draws for all missing blocks in this process,
            before workers start.
        accept_changes: Whether to continue although files of the simulator have changed since the folder was begun, or
            the simulator gives other data. The store records this from then on.
        engine: Engine that runs the blocks, in place of `workers`: `Here()`, `Workers(4)`, or `Cluster(address)` for
            other machines. The simulations are the same.

    Raises:
        TypeError: If the simulator is no `Simulator`, or the engine is no `Engine`.
        ValueError: If the folder holds another campaign; if the same parameters and seed give other data than those
            stored; if the simulator does not return what its observables promise, or cannot be sent to worker
            processes; if both workers and an engine are given; or if clearly more than half of the rows failed.
            Committed simulations are kept.
        OSError: If the store cannot be written; committed simulations are kept.
        KeyboardInterrupt: On Ctrl-C and SIGTERM; the same call continues where it stopped.

    Warns:
        UserWarning: If rows failed, if the store holds more than n rows (all are returned), or if it is unknown whether
            the stored rows are of this state of the simulator.
    """
    check_workers(workers)
    engine = _engine(engine, workers, timeout)
    wanted = CampaignSpec(
        simulator,
        path,
        n,
        seed=seed,
        device=device,
        block=block,
        timeout=timeout,
        proposal=proposal,
        accept_changes=accept_changes,
    )
    store = begin(wanted, lambda there: None if engine is None or there else engine.check(simulator, path))
    if store.missing():
        note_of(store, simulator, device=device, timeout=timeout)
    while blocks := store.missing():
        if proposal is not None:
            with one_thread():
                propose(store, proposal, blocks)
        campaign = Campaign(store, simulator, _turned(store, blocks), device=str(device), timeout=timeout)
        if engine is None:
            engine = _timed(campaign, progress)
        else:
            _follow(campaign, engine, progress)
        store.refresh()
    _warn(store)
    return store


def repair(store: Store, simulator: Simulator, *, device: str | torch.device = "cpu") -> list[int]:
    """Simulate again exactly the blocks of a store that are damaged or missing.

    Args:
        store: The store.
        simulator: The simulator that made the store.
        device: Device on which the simulator runs.

    Returns:
        Numbers of the blocks simulated again. On the same kind of processor and with the same versions the digest is as
            before.

    Raises:
        ValueError: If the simulator is not the one that made the store, or a proposal's parameters are gone.

    Warns:
        UserWarning: If a block has other content than when it was first committed.
    """
    check_own(store, simulator)
    store.refresh()
    store.known.mend()
    store.refresh()
    blocks = sorted({damage.block for damage in store.damaged()} | set(store.missing()))
    changed = list[int]()
    with interruptible() as interrupts, one_thread():
        for index in blocks:
            if not _simulated_again(store, simulator, index, device):
                changed.append(index)
            interrupts.check()
    if changed:
        warnings.warn(
            f"blocks {changed} of {store.folder.name} came out otherwise than when they were first simulated: "
            "the processor, the versions of libraries, or a file the simulator reads has changed. The digest has "
            "changed too",
            stacklevel=2,
        )
    return blocks


def _simulated_again(store: Store, simulator: Simulator, index: int, device: str | torch.device) -> bool:
    """Simulate a block again; return whether its content is as before. True if the earlier content is unknown."""
    known = [entry for entry in store.history(index) if entry.rows == store.rows_of(index)]
    counts = known[-1].counts if known else {}
    if set(counts) == {Status.TIMED_OUT}:
        entry = give_up(store, index, Status.TIMED_OUT, "timed out when it was first simulated")
    elif set(counts) == {Status.RAISED}:
        # All rows failed, perhaps because the simulator kills its process. So the block runs in a worker.
        campaign = Campaign(store, simulator, [index], device=str(device), timeout=None)
        with closing(Workers(1).run(campaign)) as entries:
            entry = next(entries)
        store.refresh()
    else:
        entry = run_block(simulator, store, index, device=device)
    return not known or entry.content in {old.content for old in known}


def _turned(store: Store, blocks: list[int]) -> list[int]:
    """Order in which blocks are run: ascending in a folder on a disk, and from a random block on in a store on s3://.

    On s3:// other machines may run the same campaign and would begin with the same blocks.
    """
    start = random.randrange(len(blocks)) if store.folder.path("store.json") is None else 0
    return blocks[start:] + blocks[:start]


def _engine(engine: Engine | None, workers: int | str, timeout: float | None) -> Engine | None:
    """Engine that runs the blocks; None if a block is to be timed first."""
    check_engine(engine, workers)
    if engine is None and workers == "auto":
        return None if timeout is None else Workers(cores_here())
    if engine is None:
        return Workers(int(workers)) if timeout is not None or int(workers) > 1 else Here()
    if isinstance(engine, Here) and timeout is not None:
        raise ValueError("Here() cannot stop a block at its timeout; use engine=Workers(1), or leave engine out")
    return engine


def _timed(campaign: Campaign, shown: bool) -> Engine:
    """Run the first block in this process, and choose the number of workers for the other blocks by its time."""
    first = Campaign(campaign.store, campaign.simulator, list(campaign.queue)[:1], device=campaign.device, timeout=None)
    started = time.monotonic()
    _follow(first, Here(), shown)
    seconds = time.monotonic() - started
    crew = _crew(campaign.simulator, seconds, len(campaign.queue) - 1, campaign.device, shown)
    return Workers(crew) if crew > 1 else Here()


def _crew(simulator: Simulator, seconds: float, blocks: int, device: str | torch.device, shown: bool) -> int:
    """Number of workers for a number of blocks that take a given number of seconds each."""
    cores, why = min(cores_here(), blocks), ""
    if cores < 2 or torch.device(device).type != "cpu" or seconds * blocks * (1 - 1 / cores) < _STARTING:
        return 1
    try:
        check_sendable(simulator)
    except ValueError as error:
        cores, why = 1, f", for {error}"
    if shown:
        telling.tell(f"a block takes {seconds:.2g} s and {blocks:,} are left: {cores} worker{'s' * (cores > 1)}{why}")
    return cores


def _follow(campaign: Campaign, engine: Engine, shown: bool) -> None:
    """Run a campaign: report progress, and stop it when most of its rows fail."""
    store, entries = campaign.store, engine.run(campaign)
    counts = Counter(store.counts)
    done = store.rows - sum(store.rows_of(index) for index in store.missing())
    progress = Progress(store.rows, done, shown=shown)
    with interruptible() as interrupts, one_thread(), closing(entries), progress as bar:
        for entry in entries:
            counts.update(entry.counts)
            bar.add(entry.rows, entry.rows - entry.ok)
            interrupts.check()
            if mostly_failing(failed_of(counts), counts.total()):
                break
    store.refresh()
    refuse(store, counts, done=counts.total() >= store.rows)


def _warn(store: Store) -> None:
    counts = store.counts
    refuse(store, counts, done=True)
    if failed_of(counts):
        warnings.warn(
            f"{failed_of(counts):,} of {len(store):,} simulations in {store.folder.name} failed ({in_words(counts)}) "
            "and are left out of training and calibration: if failing depends on the parameters, the prior is cut off "
            "there. `store.failures()` shows parameters and messages",
            stacklevel=3,
        )
