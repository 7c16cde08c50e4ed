"""Begin or resume a campaign: refuse wrong requests before there is a store, and check simulations that exist already.

All ways to run a campaign use these functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, final

import torch

from sciinf.campaigns.again import checked_again
from sciinf.campaigns.block import one_thread
from sciinf.campaigns.conditions import conditions, decisive, differing
from sciinf.campaigns.probe import probe_block
from sciinf.campaigns.storage.description import accept, check_same, describe, read_description
from sciinf.campaigns.storage.objects import store_at
from sciinf.campaigns.store import Store
from sciinf.core.checks import check_whole
from sciinf.core.proposal import Proposal
from sciinf.core.simulator import Simulator


@final
@dataclass(frozen=True)
class CampaignSpec:
    """Specification of a campaign.

    Args:
        simulator: The simulator to run.
        path: Folder of the store.
        n: Total number of rows wanted.
        seed: Seed of the campaign.
        device: Device on which the simulator runs.
        block: Rows per batch; None for the simulator's own number or the store's, "auto" to measure.
        timeout: Seconds after which a block is given up; None for never.
        proposal: Distribution from which theta is drawn instead of the prior.
        accept_changes: Whether to accept changed files of the simulator instead of refusing them.

    Raises:
        TypeError: If the simulator is no `Simulator`.
        ValueError: If a number is out of range.
    """

    simulator: Simulator
    path: str | Path
    n: int
    seed: int = field(default=0, kw_only=True)
    device: str | torch.device = field(default="cpu", kw_only=True)
    block: int | str | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    proposal: Proposal | None = field(default=None, kw_only=True)
    accept_changes: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.simulator, Simulator):
            raise TypeError(
                f"simulate takes a Simulator, got {type(self.simulator).__name__}; wrap a function with "
                "sciinf.wrappers.numpy, or load a file with load_simulator(path)"
            )
        for name, value, low in (("n", self.n, 1), ("seed", self.seed, 0)):
            check_whole(name, value, low)
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds or None, got {self.timeout!r}")


def begin(wanted: CampaignSpec, check: Callable[[bool], None]) -> Store:
    """Create or open the store of a campaign, after all checks that are possible before a simulation runs.

    Args:
        wanted: Specification of the campaign.
        check: Function that raises an error if the simulator cannot be run in the chosen place. Its argument says
            whether there is a store already.

    Raises:
        ValueError: If the folder holds another campaign, or rows of another state of the simulator.
        OSError: If the folder cannot be written.

    Warns:
        UserWarning: If the store holds more rows than are wanted, or it is unknown whether its rows are of this state
            of the simulator.
    """
    simulator, path, n, device = wanted.simulator, wanted.path, wanted.n, wanted.device
    begun, block = store_at(path), cast("Any", wanted.block)
    check(begun is not None)
    if begun is not None and block in (None, "auto"):
        block = int(read_description(begun)["block"])
    elif block is None:
        block = simulator.block
    elif block == "auto":
        with one_thread():
            block = probe_block(simulator, n, seed=wanted.seed, device=device)
    if wanted.accept_changes and begun is not None:
        accept(begun, simulator)
    store = Store.create(path, simulator, seed=wanted.seed, block=block, rows=n, proposal=wanted.proposal)
    if store.rows > n:
        warnings.warn(
            f"{n:,} simulations were asked for, {store.folder.name} has {store.rows:,} and all are used; give another "
            "folder for fewer",
            stacklevel=3,
        )
    if len(store) and (words := checked_again(store, simulator, device=device)):
        warnings.warn(words, stacklevel=3)
    return store


def check_own(store: Store, simulator: Simulator) -> None:
    """Refuse a simulator with which the store was not begun, and remove unfinished files of writers that died.

    Raises:
        ValueError: If the simulator is another one, or its files have changed.
        OSError: If the folder cannot be written.
    """
    wanted = describe(simulator, store.seed, store.block, store.rows, store.proposal)
    check_same(store.folder.name, read_description(store.folder), wanted, simulator)
    for inside in store.known.shelf.leftovers():
        store.folder.prepare(inside)


def joined(store: Store, simulator: Simulator, *, device: str, blocks: Collection[int] | None = None) -> str:
    """Check that stored rows come out the same on this machine; return warnings in words, or "" if there are none.

    A worker calls this function when it joins other workers.

    Args:
        store: Store with at least one block.
        simulator: The simulator of this worker.
        device: Device on which the simulator runs.
        blocks: Blocks that may be checked; all blocks by default.

    Raises:
        ValueError: If the rows are of another state of the simulator.
    """
    words = checked_again(store, simulator, device=device, blocks=blocks)
    if (differs := unlike_versions(store, simulator, device, blocks)) and differs not in words:
        more = f"versions here are not those that the rows in {store.folder.name} were made with: {differs}"
        words = f"{words}; {more}" if words else f"{more}. The last bits may differ; install the same on all machines"
    return words


def unlike_versions(store: Store, simulator: Simulator, device: str, blocks: Collection[int] | None = None) -> str:
    """Versions that differ from those of the first simulated block, in words; "" if all are the same."""
    known = (entry for index, entry in store.entries() if blocks is None or index in blocks)
    first = next((entry for entry in known if entry.conditions), None)
    if first is None:
        return ""
    return differing(decisive(first.conditions), decisive(conditions(simulator, device)))


def check_in_file(simulator: Simulator, who: str) -> None:
    """Refuse a simulator that other processes cannot load, because it is in no file.

    Args:
        simulator: The simulator.
        who: Processes that load the simulator, in words, such as "SLURM jobs".

    Raises:
        ValueError: If the simulator is in no file.
    """
    if simulator.source is None:
        raise ValueError(
            f"the simulator {simulator.name!r} is in no file that {who} could load. Save it in a .py file on a disk "
            "that they share, ending with `simulator = ...`, and load it with load_simulator(path)"
        )
