"""Run one block on a machine of a Dask cluster: the worker's side. Each process runs one block at a time.

Before a worker begins a block, it makes a claim: a file in a folder of the store that the campaign has created. The
claim shows whether the worker sees the store's own folder. If the process ends, another worker receives the block and
finds the claim. So it learns that this block was running, while other blocks had only waited in the same process. A
process that is told to end notes this in a second file, and then the block is not to blame. At the deadline a thread in
C writes the position of the running code into the claim. Then it ends the process, even if the simulator does not let
Python run. Programs that the simulator has started end with the process (`campaigns.watcher`).
"""

from __future__ import annotations

import atexit
import faulthandler
import hashlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from sciinf.campaigns.block import one_thread
from sciinf.campaigns.conditions import conditions, decisive, differing
from sciinf.campaigns.devices import shared
from sciinf.campaigns.sent import Job, attempt, committed, opened
from sciinf.campaigns.storage.durable import writing
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.store import Store
from sciinf.campaigns.watcher import Watcher
from sciinf.core.files import alive
from sciinf.core.simulator import Simulator

_ONE = threading.Lock()
_HAND: list[Path] = []
_WATCHER = Watcher()
_LOOK = 0.2  # Seconds between two looks at the worker's status.
_HERE = "the worker in process {} of {}"
_MADE = re.compile(_HERE.format(r"(\d+)", "(.*)"))


def run_told(told: str) -> str:
    """Run a block and commit it.

    Args:
        told: JSON object with "code" (version of sciinf of the campaign), "job", "block", "claim", "timeout" and
            "conditions".

    Returns:
        JSON object with one of these keys. "entry": the entry that was committed. "error": kind and message of an
            error. "lost": why an earlier process with this block has ended; "late" is then true if it was at its
            deadline. "left": the earlier process was told to end.
    """
    asked = json.loads(told)
    with _ONE:  # One block at a time: the deadline ends the process, and libraries use one thread.
        return json.dumps(_answer(asked))


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    here = _HERE.format(os.getpid(), platform.node())
    if asked["code"] != code():
        return _error(
            RuntimeError(f"{here} runs another version of sciinf ({code()}, here {asked['code']}); install the same")
        )
    job = Job(**asked["job"] | {"identity": tuple(map(tuple, asked["job"]["identity"]))})
    claim = Path(job.claims) / asked["claim"]
    try:
        with writing(job.store):
            file = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return _begun_before(job, asked["block"], claim)
    except FileNotFoundError:
        return _error(
            RuntimeError(
                f"{here} does not see the folder {job.store} that the campaign writes to. The store must lie on a disk "
                "that all machines share, under the same name"
            )
        )
    except OSError as error:
        return _error(error)
    try:
        with writing(job.store):
            os.write(file, f"{here}\n".encode())
        return _run(asked, job, claim, file)
    except OSError as error:
        return _error(error)
    finally:
        os.close(file)


def _run(asked: Mapping[str, Any], job: Job, claim: Path, file: int) -> dict[str, Any]:
    _note_when_told_to_end()
    _HAND.append(claim)
    try:
        _WATCHER.begin()
        if asked["timeout"] is not None:
            faulthandler.dump_traceback_later(asked["timeout"], exit=True, file=file)
        with one_thread():
            if words := _unlike(job, asked["conditions"]):
                return _error(RuntimeError(words))
            found = attempt(job, asked["block"], again=False, device=shared(job.device))
    finally:
        if asked["timeout"] is not None:
            faulthandler.cancel_dump_traceback_later()
        _WATCHER.rest()
        _HAND.clear()
    return {"entry": found.to_json()} if isinstance(found, Entry) else _error(found)


def _begun_before(job: Job, index: int, claim: Path) -> dict[str, Any]:
    """Report of a block that this campaign has given to another process before."""
    try:
        entry = committed(Store(job.store), index)
    except (ValueError, OSError) as error:
        return _error(error)
    return {"entry": entry.to_json()} if entry else ended(claim)


def ended(claim: Path) -> dict[str, Any]:
    """How the process that made a claim has ended: "lost" and "late", as in `run_told`.

    "left" if there is no claim, the process was told to end, or it still runs on this machine. A scheduler gives up a
    worker from which it does not hear. Whether a worker on another machine still runs is unknown.
    """
    try:
        words = claim.read_text(errors="replace")
    except FileNotFoundError:
        return {"left": True}
    if _left(claim).exists():
        return {"left": True}
    who, _, rest = words.partition("\n")
    made = _MADE.fullmatch(who)
    if made and not rest.strip() and made[2] == platform.node() and alive(int(made[1])):
        return {"left": True}
    return {"lost": f"{who or 'its worker'} ended without a word", "late": bool(rest.strip())}


def forget(claim: Path) -> None:
    """Remove the claim of a block that is finished."""
    for file in (claim, _left(claim)):
        with suppress(OSError):
            file.unlink(missing_ok=True)


def conditions_of(simulator: Simulator, device: str) -> dict[str, str]:
    """Conditions that must be the same on all machines: versions, which decide the last bits.

    The processor may differ.
    """
    return decisive(conditions(simulator, device))


@lru_cache(maxsize=1)
def code() -> str:
    """Hash of the files of sciinf, which tells its versions apart."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _unlike(job: Job, asked: Mapping[str, str]) -> str:
    """Versions on this machine that differ from those of the campaign, in words; "" if none differ."""
    try:
        simulator, _ = opened(job)
    except Exception:
        return ""  # `attempt` then reports the error.
    words = differing(asked, conditions_of(simulator, job.device))
    return words and (
        f"on {platform.node()} versions are not those of the campaign ({words}), and simulations may come out "
        "otherwise; install the same on all machines"
    )


def _left(claim: Path) -> Path:
    return claim.with_name(f"{claim.name}.left")


@lru_cache(maxsize=1)
def _note_when_told_to_end() -> None:
    def note() -> None:
        for claim in list(_HAND):
            with suppress(OSError):
                _left(claim).touch()

    def watch() -> None:  # A process that ends too slowly is killed before atexit runs.
        while worker.status.name not in ("closing", "closed"):
            time.sleep(_LOOK)
        note()

    from distributed import get_worker

    worker = get_worker()
    atexit.register(note)
    Finalize(None, note, exitpriority=10)  # Processes started by multiprocessing skip atexit.
    threading.Thread(target=watch, daemon=True).start()


def _error(error: Exception) -> dict[str, Any]:
    told = {"kind": type(error).__name__, "words": str(error)}
    if isinstance(error, OSError):
        told |= {"kind": "OSError", "errno": error.errno, "words": error.strerror or str(error)}
    return {"error": told}
