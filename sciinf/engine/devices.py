"""Which GPU a worker takes: one stream of blocks a device.

Where "cuda" is asked for without a number, each worker takes a device of its own: the first whose lock nobody holds.
The kernel releases a lock when its holder ends, however it ends, so that the worker after it gets the same device.
"""

from __future__ import annotations

import os
import time
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
    return device if count < 2 or os.name == "nt" else f"cuda:{_own(folder, count)}"


def _own(folder: Path, count: int) -> int:
    import fcntl

    while True:
        for number in range(count):
            file = os.open(folder / f"device.{number}", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            _HELD.append(file)
            return number
        time.sleep(0.05)
