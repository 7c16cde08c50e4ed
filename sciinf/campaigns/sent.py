"""Sending a simulator to other processes: by the path of its file, or pickled for processes on this machine.

The file under this path must be the one with which the campaign began (`core.simulator.identity`). A worker commits its
block itself and reports only what it committed, an `Entry`.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sciinf.campaigns.block import run_block
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.storage.folder import absolute
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.store import Store
from sciinf.core.simulator import Simulator, identity, load_simulator


@dataclass(frozen=True)
class Job:
    """What a worker needs to know to run blocks of a campaign.

    Args:
        store: Folder of the store.
        source: Path of the simulator's file, which the worker loads; None for a pickled simulator.
        pickled: The simulator as a pickle, if it is in no file; else None.
        device: Device on which the simulator runs.
        claims: Folder in which workers note which block they have begun.
        identity: Identity of the simulator when the campaign began (`core.simulator.identity`).
    """

    store: str
    source: str | None
    pickled: bytes | None
    device: str
    claims: str
    identity: tuple[tuple[str, str], ...]


def job_of(campaign: Campaign, claims: Path) -> Job:
    """The `Job` that the workers of a campaign receive.

    Raises:
        ValueError: If the simulator can be neither loaded by path nor pickled.
    """
    simulator = campaign.simulator
    pickled = _pickled(simulator) if simulator.source is None else None
    source = None if simulator.source is None else str(simulator.source)
    store = absolute(campaign.store.folder)
    return Job(store, source, pickled, campaign.device, str(claims), _known(simulator))


@lru_cache(maxsize=1)
def opened(job: Job) -> tuple[Simulator, Store]:
    """Load the simulator and open the store of a job, in a worker.

    Raises:
        ValueError: If the simulator's files are not those with which the campaign began.
    """
    simulator = load_simulator(job.source) if job.source is not None else pickle.loads(job.pickled or b"")
    store = Store(job.store)
    if _known(simulator) != job.identity:
        raise ValueError(
            f"{job.source}, or a file beside it, has changed since the campaign began; run the command again"
        )
    return simulator, store


def attempt(job: Job, index: int, *, again: bool, device: str) -> Entry | Exception:
    """Run a block and commit it, in a worker; return its entry, or the error.

    Errors are returned and not raised. So an exception from the engine is always the engine's own.

    Args:
        job: Job of the campaign.
        index: Number of the block.
        again: Whether another worker began the block before; the block may then be committed already.
        device: Device on which the simulator runs.
    """
    try:
        simulator, store = opened(job)
        return (again and committed(store, index)) or run_block(simulator, store, index, device=device)
    except (ValueError, TypeError, MemoryError, OSError) as error:
        return error if type(error).__module__ == "builtins" else ValueError(f"{type(error).__name__}: {error}")
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")


def committed(store: Store, index: int) -> Entry | None:
    """Entry of a block that another process has committed meanwhile; None if the block is missing."""
    store.refresh()
    return None if store.lacks(index) else store.history(index)[-1]


def check_sendable(simulator: Simulator) -> None:
    """Refuse a simulator that worker processes could not load, such as a simulator defined in a notebook.

    Raises:
        ValueError: If the simulator can be neither loaded by path nor pickled.
    """
    if simulator.source is None:
        _pickled(simulator)


def _known(simulator: Simulator) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(identity(simulator).items()))


def _pickled(simulator: Simulator) -> bytes:
    why = "it is defined in a notebook or at the prompt, which they do not see"
    try:
        data = pickle.dumps(simulator)
        if _main_is_seen() or not any(_names_main(argument) for _, argument, _ in pickletools.genops(data)):
            return data
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    raise ValueError(
        f"the simulator {simulator.name!r} was made in this session and cannot be sent to worker processes ({why}). "
        "Save it in a .py file that ends with `simulator = ...` and load it with load_simulator(path), or use "
        "workers=1 without a timeout"
    )


def _main_is_seen() -> bool:
    """Whether new processes can load objects of the main module: in a script they can, in a notebook they cannot."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (file is not None and Path(file).is_file())


def _names_main(argument: object) -> bool:
    """Whether an argument of a pickle names the main module, alone or followed by the name of an object in it."""
    return isinstance(argument, str) and argument.split(" ")[0] == "__main__"
