"""Memory that is freed and soon needed again."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT, _LARGEST = 256 * 2**20, 32 * 2**20  # bytes; glibc takes no larger block from its heap


@cache
def retain_freed() -> None:
    """Have glibc keep freed memory, up to 256 MiB in blocks of up to 32 MiB, for whoever asks next in the process.

    A step on a CPU makes and frees dozens of tensors of 100 kB to some MB. glibc returns such blocks to the system
    (mallopt(3)), and each time they are asked for again the kernel clears every page of them, which took up to 40% of a
    step. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # a library without it; a system where none is linked so
        return
    mallopt(_MMAP, _LARGEST)
    mallopt(_TRIM, _KEPT)
