"""A trial read of an HDF5 file in a separate process, because HDF5 may hang or crash on a damaged file.

Usage: `python h5_trial.py FILE PATTERN NUMBERS SECONDS`. The script is run by its path, so that no other
module of sciinf is loaded. The script reads what the reader of observations will read: datasets at the top of
the file whose names match PATTERN, of at most NUMBERS numbers, within SECONDS of processor time.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_MEMORY = 2**29  # Bytes allowed beside the numbers, because h5py itself needs memory.


def main(path: str, pattern: str, numbers: int, seconds: int) -> None:
    """Read the matching datasets of a file, with limits on time and memory.

    Args:
        path: The file.
        pattern: A regular expression for the names of the datasets to read.
        numbers: The largest number of values in a dataset that is read.
        seconds: The limit of processor time.
    """
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
    """Limit processor time (in s), and memory (in bytes beside what is in use), where the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
