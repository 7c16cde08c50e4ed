"""A setting of the C library that keeps freed memory for the next step of a training."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM, _MMAP = -1, -3  # These are M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h.
_KEPT, _LARGEST = 256 * 2**20, 32 * 2**20  # Bytes. glibc takes no larger block than the second from its heap.


@cache
def retain_freed() -> None:
    """Make glibc keep freed memory for later requests of the process: up to 256 MiB, in blocks of up to 32 MiB.

    A step on a CPU makes and frees dozens of tensors of 100 kB to some MB. glibc returns such blocks to the system
    (mallopt(3)). Each time they are asked for again the kernel clears all their pages, which took up to 40% of a step.
    Other C libraries are not changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # The C library has no mallopt, or cannot be loaded like this.
        return
    mallopt(_MMAP, _LARGEST)
    mallopt(_TRIM, _KEPT)
