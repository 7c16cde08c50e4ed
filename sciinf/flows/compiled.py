"""C that is compiled once on a machine, and kept: loops for which torch has no single operation.

A file is compiled by the machine's own C compiler (`CC`, cc, gcc or clang), for its own processor, as it is first
needed, into `~/.cache/sciinf` (`XDG_CACHE_HOME`); that takes two seconds. Where there is no compiler, or nothing can be
written, there is no library, and torch's own operations do the same, only slower. So they do with `SCIINF_COMPILE=0`.

Why C and not numba: numba took 16 s to compile such loops, and is one more package; torch.compile took 50 s for a step.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_LONGEST = 120  # s that a compiler may take


@functools.cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """The library of a C file; None where it cannot be made."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None or os.environ.get("SCIINF_COMPILE") == "0":
        return None
    headers = [header.read_text() for header in sorted(source.parent.glob("*.h"))]
    text = "\0".join([source.read_text(), *headers, compiler, *_FLAGS, *_processor()])
    name = f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sciinf" / name
        if not place.is_file():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(compiler, source, place)
        return ctypes.CDLL(str(place))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # no folder, no home, no success
        return None


def _make(compiler: str, source: Path, place: Path) -> None:
    """Compile into a file of another name, which is then renamed: another process may be doing the same."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        made = Path(folder) / place.name
        for native in (("-march=native",), ()):
            words = [compiler, *_FLAGS, *native, str(source), "-o", str(made), "-lm"]
            if subprocess.run(words, capture_output=True, timeout=_LONGEST, check=False).returncode == 0:
                break
        made.replace(place)


def _processor() -> tuple[str, ...]:
    """What a library for this processor depends on: machines of a cluster share a home, and may differ."""
    flags = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.system(), platform.machine(), platform.processor(), flags
