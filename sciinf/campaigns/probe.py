"""Measurements of a simulator's speed before work begins: the best number of rows per batch, and seconds per row."""

from __future__ import annotations

import os
import sys
import time

import torch

from sciinf.campaigns.block import Attempt, generator_for
from sciinf.core import Simulator

SMALLEST, LARGEST = 64, 65_536
_GAIN = 1.1
_LONGEST = 5.0
_BRIEF = 1.0
_SHARE = 0.25
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_KEY = 2**31


def probe_block(simulator: Simulator, rows: int, *, seed: int, device: str | torch.device) -> int:
    """Best number of rows per block, found by doubling until the speed stops growing or a limit would be passed.

    A batch takes at most about five seconds and a quarter of the memory. If rows raise, the time to find them in halves
    counts. The result depends on the machine; the store records the block size and keeps it.

    Args:
        simulator: Simulator to measure.
        rows: Number of rows of the campaign; a larger block is useless.
        seed: Seed of the campaign.
        device: Device on which the simulator runs.
    """
    best, size, speed = min(SMALLEST, rows), SMALLEST, 0.0
    while size <= min(LARGEST, rows):
        try:
            seconds, memory = _cost(simulator, size, seed, device)
        except Exception:
            break  # The batch does not fit, or the simulator is wrong; the campaign then reports the fault.
        if size / seconds > _GAIN * speed:
            best, speed = size, size / seconds
        elif size > 4 * best:
            break
        if 2 * seconds > _LONGEST or 2 * memory > _SHARE * _limit(device):
            break
        size *= 2
    return best


def seconds_per_row(simulator: Simulator, rows: int, *, seed: int, device: str | torch.device) -> float:
    """Seconds to draw and simulate one row in a batch: the faster of two batches, after smaller ones as a warm-up.

    Batches grow from 64 rows, because many simulators take little longer for a thousand rows than for one. If the first
    batch takes more than a second, it is not repeated. If rows raise, the time to find them in halves counts.

    Args:
        simulator: Simulator to measure.
        rows: Rows of the batch; fewer, down to 64, if `rows` would take longer than about a second.
        seed: Seed of the simulations that are planned; the measurement uses other random numbers.
        device: Device on which the simulator runs.

    Raises:
        MemoryError, torch.OutOfMemoryError: If a batch does not fit in memory.
        ValueError, TypeError: If rows raise, and the result for the other rows is not what the observables promise.
    """
    size = min(SMALLEST, rows)
    seconds, _ = _cost(simulator, size, seed, device)
    if seconds > _BRIEF:
        return seconds / size
    while size < rows and 2 * seconds < _BRIEF:
        size = min(rows, int(size * _BRIEF / seconds))
        seconds, _ = _cost(simulator, size, seed, device)
    return min(_cost(simulator, size, seed, device)[0] for _ in range(2)) / size


def _cost(simulator: Simulator, size: int, seed: int, device: str | torch.device) -> tuple[float, int]:
    """Seconds to draw and simulate a batch, and bytes by which the batch raised the peak of memory.

    A batch that raises is tried again in halves, as during training (`training.online`). The time of all tries counts.
    """
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if on_cuda else memory_in_use(device)
    started = time.perf_counter()
    theta = simulator.prior.sample(size, generator=generator_for(seed, _KEY, size, 0))
    try:
        here = theta.to(device, copy=True)  # A copy, because the simulator may work in place.
        simulator(here, generator=generator_for(seed, _KEY, size, 1, device=device))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit):
        Attempt(simulator, theta, seed, _KEY, torch.device(device)).outcome()
    if on_cuda:
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - started, 1e-9), memory_in_use(device) - before


def memory_in_use(device: str | torch.device) -> int:
    """Peak of memory in use so far, in bytes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _limit(device: str | torch.device) -> int:
    """Memory of the machine in bytes; for a GPU, its free memory."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
