"""Memory that is freed and soon needed again."""

from __future__ import annotations

from functools import cache

import torch

_LARGEST = 31 * 2**20  # bytes; glibc's threshold follows blocks of up to 32 MiB


@cache
def retain_freed() -> None:
    """Have the C library keep freed blocks of up to 31 MiB for the next one that asks, in the whole process.

    A step on a CPU makes and frees dozens of tensors of 100 kB to some MB. glibc returns such blocks to the system, and
    each time they are asked for again the kernel clears every page of them, which took up to 40% of a step. What it
    returns follows the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD), so one is made and freed here,
    without touching its pages: some 60 MiB at the end of the heap may then stay with the process. Other C libraries are
    left as they are.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
