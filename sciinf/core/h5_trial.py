"""Try an HDF5 file in a process that may hang or die of it, as HDF5 does of damaged ones.

Run by its path, `python h5_trial.py FILE PATTERN NUMBERS SECONDS`, so that nothing else of sciinf is loaded. It reads
what the reader of observations will read: members whose names match, of at most so many numbers.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_MEMORY = 2**29  # bytes beside the numbers themselves


def main(path: str, pattern: str, numbers: int, seconds: int) -> None:
    """Read, within so many seconds of processor time."""
    import h5py

    _limit(seconds, _MEMORY + 32 * numbers)
    with h5py.File(path, "r") as opened:
        file: Any = opened
        for name in file:
            if re.fullmatch(pattern, name) and isinstance(file.get(name, getlink=True), h5py.HardLink):
                item: Any = file[name]
                if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
                    dict(item.attrs)
                    _ = [(axis.label, [scale.name for scale in axis.values()]) for axis in item.dims]
                    size: Any = item.size
                    if size is not None and size <= numbers and item.dtype.kind in "biuf":
                        item[()]


def _limit(seconds: int, memory: int) -> None:
    """Of processor time, and of memory beside what is in use already; no more is asked where a system has none."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
