"""Folder that holds the files of a store: a folder of the file system, or one that behaves like it.

File names are relative, with slashes. A file is present whole or not at all, whichever process is killed at whatever
moment. A file is created or replaced in one step, and is durable when the call returns. Only journals grow, by whole
lines.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sciinf.campaigns.storage.disk import added, created, make, sync
from sciinf.core.files import sweep, write_bytes, write_through

_LAST = 256  # Last bytes read of a journal, which distinguish it from another one of this name.
# Nanoseconds. A folder changed more recently than this before a listing may change again with the same time stamp.
_SETTLED = 10**10


@dataclass(frozen=True)
class Listing:
    """Names directly in a folder.

    Args:
        names: Names of files and folders, without the folder's own name; unfinished files are left out.
        stamp: Value that changes when a name is added or removed; None if it cannot be relied on.
        leftovers: Whether there are unfinished files, perhaps of writers that died.
    """

    names: frozenset[str] = frozenset()
    stamp: Hashable = None
    leftovers: bool = False


@final
class Changed(OSError):
    """Error: another process has replaced a file since it was read. The caller must read it again and decide anew."""


@final
class Unreachable(OSError):
    """Error: a service does not answer, or denies access. The state of its files is unknown; none counts as damaged."""


class Folder(ABC):
    """Files by name, each whole or absent.

    Attributes:
        name: Name of the folder in messages.
    """

    name: str

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes of a file, or the bytes from `start` up to `stop`.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If the file cannot be read.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a file durably unless it exists; return whether it was written. Of several writers, only one writes.

        Raises:
            OSError: If the file cannot be written; no partial file stays behind.
        """

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file durably, in place of an existing one.

        Raises:
            Changed: If another process has replaced the file since this folder read it, where this can be detected.
            OSError: If the file cannot be written; the existing file stays.
        """

    @abstractmethod
    def commit(self, name: str, data: bytes, stays: Callable[[bytes], bool]) -> bytes:
        """Write a file that other processes may write at the same time; return the content of the file afterwards.

        If other processes could read both versions of a replaced file, the first writer wins. An existing file then
        stays if it is as good.

        Args:
            name: Name of the file.
            data: Content to write.
            stays: Function that says whether other content of an existing file is as good as `data`.

        Raises:
            OSError: As for `replace`.
        """

    @abstractmethod
    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Write a file that is larger than memory, part after part, in place of an existing one.

        Raises:
            OSError: As for `replace`. An exception from `parts` is passed on, and the existing file stays.
        """

    @abstractmethod
    def append(self, name: str, line: bytes) -> None:
        """Add a line to a file durably. A torn last line of the file is ended first.

        `news` reads the lines of several files.

        Args:
            name: Name of the file, to which no other process adds. Where files cannot grow, the line becomes a file of
                its own below this name.
            line: The line without its end.

        Raises:
            OSError: If the line could not be written whole; a torn line then stays in the file.
        """

    @abstractmethod
    def news(self, inside: str, seen: dict[str, Any]) -> Iterator[tuple[str, int, bytes]]:
        """Yield what was added to the files of a folder since the last call, up to the last complete line.

        Args:
            inside: Name of the folder, such as "journal".
            seen: Name of each file -> position read so far, which is updated; begin with {}.

        Yields:
            Name of a file, position of the new bytes in the file, and the new bytes. The position is 0 for a new file,
                or another file of this name.
        """

    @abstractmethod
    def settle(self, name: str) -> str:
        """Rename a file so that no process adds to it any more; return the new name.

        Lines that are being written are not lost: they go into this file or into a new file of the old name.

        Raises:
            FileNotFoundError: If there is no such file.
        """

    @abstractmethod
    def names(self, inside: str) -> Iterator[str]:
        """Names of all files below a folder, such as "shards", in no particular order.

        Unfinished files are left out.
        """

    @abstractmethod
    def listed(self, inside: str, before: Listing | None = None) -> Listing:
        """List the names directly in a folder; an empty listing if there is no such folder.

        Args:
            inside: Name of the folder.
            before: Previous listing of the folder, which is returned if the folder cannot have changed since.
        """

    @abstractmethod
    def stamp(self, name: str) -> Hashable:
        """Value that changes whenever a file changes.

        Raises:
            FileNotFoundError: If there is no such file.
        """

    @abstractmethod
    def age(self, name: str) -> float:
        """Seconds since a file was last written.

        Raises:
            FileNotFoundError: If there is no such file.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""

    @abstractmethod
    def prepare(self, inside: str) -> None:
        """Create a folder for files, and remove unfinished files of dead writers in it.

        Raises:
            OSError: If the folder cannot be created.
        """

    def path(self, name: str) -> Path | None:
        """Path of a file in the file system, existing or not; None for a file elsewhere, which only `read` can read."""
        return None


@dataclass(frozen=True)
class _Read:
    """How far a journal was read: stamp of the file, end position, and the last bytes with a line's hash."""

    stamp: Hashable = None
    start: int = 0
    last: bytes = b""


@final
class LocalFolder(Folder):
    """A folder of the file system.

    Args:
        root: Path of the folder, relative to the present working directory. A simulator may change the working
            directory later. Subfolders are created when they are needed.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.name = root.absolute(), str(root)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with open(self.root / name, "rb") as file:
            file.seek(start)
            return file.read() if stop is None else file.read(max(0, stop - start))

    def create(self, name: str, data: bytes) -> bool:
        path = self.root / name
        make(path.parent)
        return created(path, data)

    def replace(self, name: str, data: bytes) -> None:
        path = self.root / name
        make(path.parent)
        write_bytes(path, data)

    def commit(self, name: str, data: bytes, stays: Callable[[bytes], bool]) -> bytes:
        self.replace(name, data)  # Writers of the same block write the same bytes.
        return data

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        path = self.root / name
        make(path.parent)

        def fill(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                file.writelines(parts)

        write_through(path, fill)

    def append(self, name: str, line: bytes) -> None:
        path = self.root / name
        make(path.parent)
        while not added(path, line):  # The file was settled between opening and writing.
            continue

    def news(self, inside: str, seen: dict[str, Any]) -> Iterator[tuple[str, int, bytes]]:
        try:
            with os.scandir(self.root / inside) as found:
                files = sorted(file.name for file in found if file.name.endswith(".jsonl"))
        except FileNotFoundError:
            return
        for file in files:
            name = f"{inside}/{file}"
            with suppress(FileNotFoundError):  # The journal was merged into another one.
                found, read = os.stat(self.root / name), seen.get(name, _Read())
                stamp = found.st_ino, found.st_size, found.st_mtime_ns
                if stamp == read.stamp:
                    continue
                start, data = read.start, self.read(name, read.start - len(read.last))
                if data.startswith(read.last):
                    data = data[len(read.last) :]
                else:  # The journal was settled, and its writer has begun another one.
                    start, data = 0, self.read(name)
                data = data[: data.rfind(b"\n") + 1]
                last = (read.last + data if start else data)[-_LAST:]
                seen[name] = _Read(stamp, start + len(data), last)
                yield name, start, data

    def settle(self, name: str) -> str:
        settled = f"{name.removesuffix('.jsonl')}-{os.urandom(4).hex()}.jsonl"
        os.rename(self.root / name, self.root / settled)
        sync((self.root / name).parent)
        return settled

    def names(self, inside: str) -> Iterator[str]:
        for folder, _, files in os.walk(self.root / inside):
            below = Path(folder).relative_to(self.root).as_posix()
            yield from (f"{below}/{file}" for file in files if not file.startswith("."))

    def listed(self, inside: str, before: Listing | None = None) -> Listing:
        path = self.root / inside
        try:
            stamp = os.stat(path).st_mtime_ns
            if before is not None and before.stamp == stamp:
                return before
            with os.scandir(path) as found:
                every = frozenset(file.name for file in found)
        except (FileNotFoundError, NotADirectoryError):
            return Listing()
        names = frozenset(name for name in every if not name.startswith("."))
        settled = time.time_ns() - stamp > _SETTLED
        return Listing(names, stamp if settled else None, len(names) < len(every))

    def stamp(self, name: str) -> Hashable:
        found = os.stat(self.root / name)
        return found.st_size, found.st_mtime_ns

    def age(self, name: str) -> float:
        return time.time() - os.stat(self.root / name).st_mtime

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.root / name)

    def prepare(self, inside: str) -> None:
        make(self.root / inside)
        sweep(self.root / inside)

    def path(self, name: str) -> Path | None:
        return self.root / name


def absolute(folder: Folder) -> str:
    """Name of a folder that is valid from any other working directory."""
    path = folder.path("")
    return folder.name if path is None else str(path.resolve())


def on_disk(folder: Folder, what: str) -> Path:
    """Path of a folder in the file system, valid from any working directory.

    Args:
        folder: The folder.
        what: What the folder is needed for, in words, such as "SLURM jobs keep their logs and hints".

    Raises:
        ValueError: If the folder is not in the file system.
    """
    path = folder.path("store.json")
    if path is None:
        raise ValueError(
            f"{folder.name} is on no disk, where {what}: simulate into a folder on a disk that the machines share, or "
            "with --workers on one machine"
        )
    return path.parent.resolve()


def there(folder: Folder, name: str) -> bool:
    """Whether a folder has a file."""
    try:
        folder.stamp(name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def journal_text(folder: Folder, name: str) -> bytes:
    """Content of a journal; empty if the journal was merged into another one."""
    try:
        return folder.read(name)
    except FileNotFoundError:
        return b""
