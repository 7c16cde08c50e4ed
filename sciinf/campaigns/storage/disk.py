"""Durable files in a folder of the file system: each is created by one of several writers, or grows by whole lines.

A change is durable when the call returns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sciinf.core.files import temporary_of

_PATIENCE = 60.0  # Seconds in which another process makes a file, on the slowest disk.
_PAUSE = 0.01


def created(path: Path, data: bytes) -> bool:
    """Write a file durably unless it exists; return whether it was written. Of several writers, only one writes.

    Raises:
        OSError: If the file cannot be written; no partial file stays behind.
    """
    if path.exists():
        return False
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
            written = True
        except FileExistsError:
            written = os.stat(temporary).st_nlink == 2  # NFS may link the file and lose the answer.
        except OSError:
            written = _renamed(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return written


def _renamed(temporary: Path, path: Path) -> bool:
    """Create a file as `created` does, on file systems without hard links.

    The writer that makes a folder beside the file may rename.
    """
    turn, started = path.with_name(f".{path.name}.made"), time.monotonic()
    while True:
        try:
            os.mkdir(turn)
            break
        except FileExistsError:
            if path.exists():
                return False
            if time.monotonic() - started > _PATIENCE:
                words = f"another process was about to make it, and has not; remove {turn} if none runs"
                raise OSError(errno.EBUSY, words, str(path)) from None
            time.sleep(_PAUSE)
    try:
        if path.exists():
            return False
        os.replace(temporary, path)
        return True
    finally:
        with suppress(FileNotFoundError):
            os.rmdir(turn)


@contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """Lock out other processes that ask for the same lock, until the context or this process ends.

    Some network file systems have no locks and lock out nobody. So compare afterwards what was written.

    Args:
        folder: Folder to lock; None if it lies in no file system, and nothing is locked.
    """
    if folder is None:
        yield
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def added(path: Path, line: bytes) -> bool:
    """Add a line to a file; return whether the file still has this name afterwards."""
    new = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        line = b"\n" * torn + line + b"\n"
        if os.write(file, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file)
        opened = os.fstat(file)
    finally:
        os.close(file)
    if new:
        sync(path.parent)
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def make(path: Path) -> None:
    """Make a folder and its parents, durably."""
    if path.is_dir():
        return
    missing = [path, *(above for above in path.parents if not above.is_dir())]
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync(made.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
