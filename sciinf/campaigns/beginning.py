"""How a campaign is begun, or taken up again, whoever runs it: what is refused before there is a store, and what is
looked at where there are simulations already.
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
from sciinf.campaigns.storage.address import store_at
from sciinf.campaigns.storage.description import accept, check_same, describe, read_description
from sciinf.campaigns.store import Store
from sciinf.core.checks import check_whole
from sciinf.core.proposal import Proposal
from sciinf.core.simulator import Simulator


@final
@dataclass(frozen=True)
class CampaignSpec:
    """What a campaign is to be.

    Args:
        simulator: What will be run.
        path: Folder of the store.
        n: Rows wanted in all.
        seed: Seed of the campaign.
        device: Where the simulator runs.
        block: Rows per batch; None for the simulator's own or the store's, "auto" to measure.
        timeout: Seconds after which a block is given up; None for never.
        proposal: Where theta is drawn from instead of the prior.
        accept_changes: Whether changed files of the simulator are no reason to refuse.

    Raises:
        TypeError: If the simulator is none.
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
    """The store of a campaign, begun or found, after all was refused that can be refused before.

    Args:
        wanted: What it is to be.
        check: Refuses what cannot be run where it is to be run; it is told whether there is a store already.

    Raises:
        ValueError: If the folder holds another campaign, or rows of another state of the simulator.
        OSError: If the folder cannot be written.

    Warns:
        UserWarning: If the store holds more rows than are wanted, or it cannot be told whose rows are there.
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
    """Refuse a simulator that a store was not begun with, and remove what writers that died have left in its folders.

    Raises:
        ValueError: If it is another one, or its files have changed.
        OSError: If the folder cannot be written.
    """
    wanted = describe(simulator, store.seed, store.block, store.rows, store.proposal)
    check_same(store.folder.name, read_description(store.folder), wanted, simulator)
    for inside in store.known.shelf.leftovers():
        store.folder.prepare(inside)


def joined(store: Store, simulator: Simulator, *, device: str, blocks: Collection[int] | None = None) -> str:
    """What a worker that joins others has to say of the rows there: do they come out here as they did there?

    Args:
        store: With rows in it.
        simulator: The one at hand.
        device: Where it runs.
        blocks: Which blocks are looked at; all when left out.

    Raises:
        ValueError: If they are of another state of the simulator.
    """
    words = checked_again(store, simulator, device=device, blocks=blocks)
    if (differs := unlike_versions(store, simulator, device, blocks)) and differs not in words:
        more = f"versions here are not those that the rows in {store.folder.name} were made with: {differs}"
        words = f"{words}; {more}" if words else f"{more}. The last bits may differ; install the same on all machines"
    return words


def unlike_versions(store: Store, simulator: Simulator, device: str, blocks: Collection[int] | None = None) -> str:
    """Which versions are not those that the first simulated block was made with, in words; "" where all are."""
    known = (entry for index, entry in store.entries() if blocks is None or index in blocks)
    first = next((entry for entry in known if entry.conditions), None)
    if first is None:
        return ""
    return differing(decisive(first.conditions), decisive(conditions(simulator, device)))


def check_in_file(simulator: Simulator, who: str) -> None:
    """Refuse a simulator that others cannot load.

    Args:
        simulator: The simulator.
        who: Who is to load it, such as "SLURM jobs".

    Raises:
        ValueError: If it is in no file.
    """
    if simulator.source is None:
        raise ValueError(
            f"the simulator {simulator.name!r} is in no file that {who} could load. Save it in a .py file on a disk "
            "that they share, ending with `simulator = ...`, and load it with load_simulator(path)"
        )
