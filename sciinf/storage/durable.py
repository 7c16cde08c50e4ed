"""Writing that fails with a reason and a way out, and what a killed writer leaves behind."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what an error of the operating system means for the store in `path`; its errno stays."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"the store {path} cannot be written: {reason}. Blocks committed so far are safe; make room, or choose a "
            "folder that can be written, and the same command goes on where it was",
        ) from error


def sweep(folder: Path) -> None:
    """Remove temporary files of processes of this machine that are gone."""
    for file in folder.glob(".*.tmp"):
        node, _, pid = file.name.removesuffix(".tmp").rpartition(".")
        if node.endswith(f".{platform.node()}") and pid.isdigit() and not alive(int(pid)):
            file.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
