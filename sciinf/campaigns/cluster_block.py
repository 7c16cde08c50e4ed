"""One block on a machine of a cluster, as the worker there does it, one at a time in each process.

Before it begins, a worker makes a claim: a file in a folder of the store that the campaign has made for itself. So it
finds out whether it sees the store's own folder, and whoever is given the block after it, because its process is gone,
finds out that this block was being run, where others had only waited in the same process. A process that is told to end
notes that too, and then the block is not to blame. At the deadline a thread in C writes where the block stands into the
claim and ends the process, even where the simulator does not let Python run. What the simulator had started ends with
the process (`campaigns.watcher`).
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
_LOOK = 0.2  # s
_HERE = "the worker in process {} of {}"
_MADE = re.compile(_HERE.format(r"(\d+)", "(.*)"))


def run_told(told: str) -> str:
    """Run a block and commit it.

    Args:
        told: JSON: "code" of whoever asks, "job", "block", "claim", "timeout", "conditions".

    Returns:
        JSON with one of: "entry", what was committed; "error", its kind and its words; "lost", why a process that had
        the block before has ended, with "late" where it was at its deadline; "left", where that was told to end.
    """
    asked = json.loads(told)
    with _ONE:  # the deadline ends the process, and numerical libraries are kept to one thread
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
    """What became of a block that this campaign has given to another process before."""
    try:
        entry = committed(Store(job.store), index)
    except (ValueError, OSError) as error:
        return _error(error)
    return {"entry": entry.to_json()} if entry else ended(claim)


def ended(claim: Path) -> dict[str, Any]:
    """How the process ended that made a claim; nothing if none did, it was told to end, or it is seen to run on.

    A scheduler gives up a worker that it does not hear of. On another machine it cannot be told whether that one runs.
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
    """Remove a claim, for its block is done with."""
    for file in (claim, _left(claim)):
        with suppress(OSError):
            file.unlink(missing_ok=True)


def conditions_of(simulator: Simulator, device: str) -> dict[str, str]:
    """What must be the same on all machines, for versions decide on the last bits; the processor may differ."""
    return decisive(conditions(simulator, device))


@lru_cache(maxsize=1)
def code() -> str:
    """What tells versions of sciinf apart: a hash of its files."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _unlike(job: Job, asked: Mapping[str, str]) -> str:
    """What of this machine's versions is not as it is where the campaign was begun."""
    try:
        simulator, _ = opened(job)
    except Exception:
        return ""  # which the attempt then reports
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

    def watch() -> None:  # for a process that does not end by itself in time is killed
        while worker.status.name not in ("closing", "closed"):
            time.sleep(_LOOK)
        note()

    from distributed import get_worker

    worker = get_worker()
    atexit.register(note)
    Finalize(None, note, exitpriority=10)  # processes that were started by multiprocessing leave without atexit
    threading.Thread(target=watch, daemon=True).start()


def _error(error: Exception) -> dict[str, Any]:
    told = {"kind": type(error).__name__, "words": str(error)}
    if isinstance(error, OSError):
        told |= {"kind": "OSError", "errno": error.errno, "words": error.strerror or str(error)}
    return {"error": told}
