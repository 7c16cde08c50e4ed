"""Which GPU a worker uses: each GPU runs one stream of blocks.

If "cuda" is asked for without a number, each worker takes a device of its own: the first device whose lock is free. The
kernel releases a lock when its holder ends, however it ends. So the next worker gets the same device. Workers that are
started from outside (`sciinf work`, Dask) may outnumber the devices. Such workers share the devices (`shared`).
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
    """Number of workers that a device allows: at most the number of GPUs for "cuda" without a number."""
    return max(1, min(workers, torch.cuda.device_count())) if device == "cuda" else workers


def own_device(device: str, folder: Path, *, count: int | None = None) -> str:
    """Choose the device for this process and hold it until the process ends; wait until a device is free.

    Args:
        device: Device as it was asked for.
        folder: Folder of this campaign's locks, on this machine.
        count: Number of GPUs; by default that of this machine.

    Returns:
        "cuda:K" if "cuda" was asked for and there are several GPUs; else `device`.
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
    """Choose the device for this process among other processes of this user on this machine, without waiting.

    Args:
        device: Device as it was asked for.
        folder: Folder of the locks; by default one for this machine, this user and the visible devices.
        count: Number of GPUs; by default that of this machine.

    Returns:
        "cuda:K" if "cuda" was asked for and there are several GPUs; else `device`. K is a free GPU, or any GPU if none
            is free.
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
    """Take the lock of the first device whose lock is free, and return the device's number; None if no lock is free."""
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
