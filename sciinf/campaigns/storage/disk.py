"""Names in a folder of the file system: made by one of several writers, grown by whole lines, durable when a call
returns.
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

_PATIENCE = 60.0  # s in which another process has made a file, on the slowest disk
_PAUSE = 0.01


def created(path: Path, data: bytes) -> bool:
    """Write a file durably unless it is there; whether it was written. Of several writers, one writes.

    Raises:
        OSError: If it cannot be written; nothing half-written stays behind.
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
            written = os.stat(temporary).st_nlink == 2  # NFS may do it and lose the answer
        except OSError:
            written = _renamed(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return written


def _renamed(temporary: Path, path: Path) -> bool:
    """The same where a file has one name alone: whoever makes a folder beside it may rename."""
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
    """Keep out everybody else who asks for the same, until the end or the death of this process.

    File systems that cannot (some of networks) keep nobody out; what was written is to be compared afterwards.

    Args:
        folder: The folder; None where it lies in no file system, and nobody is kept out.
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
    """Add a line to a file; whether the file is still the one of this name."""
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
    """Make a folder, durably, with those above it."""
    if path.is_dir():
        return
    missing = [path, *(above for above in path.parents if not above.is_dir())]
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync(made.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
