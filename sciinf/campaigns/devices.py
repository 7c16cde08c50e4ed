"""Which GPU a worker takes: one stream of blocks a device.

Where "cuda" is asked for without a number, each worker takes a device of its own: the first whose lock nobody holds.
The kernel releases a lock when its holder ends, however it ends, so that the worker after it gets the same device. Of
workers that somebody else starts (`sciinf work`, Dask) there may be more than devices; those take turns (`shared`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import torch

_HELD: list[int] = []


def streams(device: str, workers: int) -> int:
    """How many workers there may be on a device: no more than GPUs where it is "cuda" without a number."""
    return max(1, min(workers, torch.cuda.device_count())) if device == "cuda" else workers


def own_device(device: str, folder: Path, *, count: int | None = None) -> str:
    """The device for this process, held until it ends; waits for one that nobody has.

    Args:
        device: As it was asked for.
        folder: Where the locks of this campaign lie; on this machine.
        count: How many GPUs there are; those of this machine when left out.

    Returns:
        "cuda:K" where "cuda" was asked for and there are several; else `device`.
    """
    if device != "cuda":
        return device
    count = torch.cuda.device_count() if count is None else count
    if count < 2 or os.name == "nt":
        return device
    while (number := _free(folder, count)) is None:
        time.sleep(0.05)
    return f"cuda:{number}"


@lru_cache(maxsize=8)
def shared(device: str, folder: Path | None = None, *, count: int | None = None) -> str:
    """The device for this process among others of this user on this machine; waits for none.

    Args:
        device: As it was asked for.
        folder: Where locks lie; one of this machine, user and selection of devices when left out.
        count: How many GPUs there are; those of this machine when left out.

    Returns:
        "cuda:K" where "cuda" was asked for and there are several, K free or, where none is, any; else `device`.
    """
    if device != "cuda":
        return device
    count = torch.cuda.device_count() if count is None else count
    if count < 2 or os.name == "nt":
        return device
    if folder is None:
        seen = hashlib.sha256(os.environ.get("CUDA_VISIBLE_DEVICES", "").encode()).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"sciinf-devices-{os.getuid()}-{seen}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        number = _free(folder, count)
    except OSError:
        number = None
    return f"cuda:{os.getpid() % count if number is None else number}"


def _free(folder: Path, count: int) -> int | None:
    """The first device whose lock nobody holds, which is now held here; None if there is none."""
    import fcntl

    for number in range(count):
        file = os.open(folder / f"device.{number}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        _HELD.append(file)
        return number
    return None
