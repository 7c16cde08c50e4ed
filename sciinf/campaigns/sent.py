"""A simulator as other processes get it: by the path of its file, or pickled for processes of our own.

What a worker finds under that path must be what the campaign began with (`core.identity`). A worker commits its block
itself and reports only what it committed, an `Entry`.
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
    """What a worker needs to know.

    Args:
        store: The store's folder.
        source: The simulator's file, which the worker loads; None for one that was pickled.
        pickled: The simulator itself where it has no file.
        device: Where it runs.
        claims: A folder in which workers note which block they have begun.
        identity: What the simulator was known by as the campaign began (`core.identity`).
    """

    store: str
    source: str | None
    pickled: bytes | None
    device: str
    claims: str
    identity: tuple[tuple[str, str], ...]


def job_of(campaign: Campaign, claims: Path) -> Job:
    """What the workers of a campaign are told.

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
    """Simulator and store, in a worker.

    Raises:
        ValueError: If the simulator's files are not those that the campaign began with.
    """
    simulator = load_simulator(job.source) if job.source is not None else pickle.loads(job.pickled or b"")
    store = Store(job.store)
    if _known(simulator) != job.identity:
        raise ValueError(
            f"{job.source}, or a file beside it, has changed since the campaign began; run the command again"
        )
    return simulator, store


def attempt(job: Job, index: int, *, again: bool, device: str) -> Entry | Exception:
    """Run a block and commit it, in a worker. Errors are returned, so that what an engine raises is the engine's own.

    Args:
        job: Whose block it is.
        index: Its number.
        again: Whether somebody else began it before; it may then be there already.
        device: Where the simulator runs.
    """
    try:
        simulator, store = opened(job)
        return (again and committed(store, index)) or run_block(simulator, store, index, device=device)
    except (ValueError, TypeError, MemoryError, OSError) as error:
        return error if type(error).__module__ == "builtins" else ValueError(f"{type(error).__name__}: {error}")
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")


def committed(store: Store, index: int) -> Entry | None:
    """A block that somebody has committed meanwhile."""
    store.refresh()
    return None if store.lacks(index) else store.history(index)[-1]


def check_sendable(simulator: Simulator) -> None:
    """Refuse a simulator that worker processes could not see, such as one of a notebook.

    Raises:
        ValueError: If it can be neither loaded by path nor pickled for them.
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
    """Whether new processes find what is defined in the main module: in a script, and not in a notebook."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (file is not None and Path(file).is_file())


def _names_main(argument: object) -> bool:
    """Whether an argument of a pickle is the name of the main module, alone or before that of something in it."""
    return isinstance(argument, str) and argument.split(" ")[0] == "__main__"
