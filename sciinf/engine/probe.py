"""`block="auto"`: how many rows at a time a simulator does best."""

from __future__ import annotations

import os
import sys
import time

import torch

from sciinf.core.simulator import Simulator
from sciinf.engine.block import generator_for

SMALLEST, LARGEST = 64, 65_536
_GAIN = 1.1
_LONGEST = 5.0
_SHARE = 0.25
_KEY = 2**31  # no campaign has this many blocks, so the probe shares no random numbers with it


def probe_block(simulator: Simulator, rows: int, *, seed: int, device: str | torch.device) -> int:
    """Rows per block, found by doubling until rows per second stop growing or memory would.

    A batch takes at most about five seconds and a quarter of the memory. The result depends on the machine; the store
    records and keeps it.

    Args:
        simulator: What is measured.
        rows: Rows of the campaign; no larger block is of use.
        seed: Seed of the campaign.
        device: Where it runs.
    """
    best, size, speed = min(SMALLEST, rows), SMALLEST, 0.0
    while size <= min(LARGEST, rows):
        before = memory_in_use(device)
        try:
            seconds = _seconds(simulator, size, seed, device)
        except Exception:
            break  # the campaign meets the same fault, and handles it row by row
        if size / seconds > _GAIN * speed:
            best, speed = size, size / seconds
        elif size > 4 * best:
            break
        if 2 * seconds > _LONGEST or 2 * (memory_in_use(device) - before) > _SHARE * _limit(device):
            break
        size *= 2
    return best


def _seconds(simulator: Simulator, size: int, seed: int, device: str | torch.device) -> float:
    theta = simulator.prior.sample(size, generator=generator_for(seed, _KEY, size, 0)).to(device)
    generator = generator_for(seed, _KEY, size, 1, device=device)
    started = time.perf_counter()
    simulator(theta, generator=generator)
    if theta.is_cuda:
        torch.cuda.synchronize(theta.device)
    return max(time.perf_counter() - started, 1e-9)


def memory_in_use(device: str | torch.device) -> int:
    """Bytes in use at the peak so far."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _limit(device: str | torch.device) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
