"""Where the files of a store lie: a folder of the file system, or what behaves like one.

Names are relative, with slashes. A file is there whole or not at all, whoever is killed and whenever: it is created or
replaced in one step, and durable when the call returns. Only journals grow, by whole lines.
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

_LAST = 256  # bytes of a journal that tell it from another one of its name
_SETTLED = 10**10  # ns; what was changed later than this before it was listed may change again at the same time stamp


@dataclass(frozen=True)
class Listing:
    """What lies right in a folder.

    Args:
        names: Of files and folders, without that of the folder; unfinished files are left out.
        stamp: What changes when a name comes or goes; None where that cannot be relied on.
        leftovers: Whether there are unfinished files, which may be those of writers that died.
    """

    names: frozenset[str] = frozenset()
    stamp: Hashable = None
    leftovers: bool = False


@final
class Changed(OSError):
    """A file was replaced by somebody else since it was read: read it again, and decide anew."""


@final
class Unreachable(OSError):
    """A service does not answer, or does not let us in: nothing is known of its files, and none is damaged for it."""


class Folder(ABC):
    """Files by name, each whole or absent.

    Attributes:
        name: The folder as messages call it.
    """

    name: str

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` up to `stop` of it.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it cannot be read.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a file durably unless it is there; whether it was written. Of several writers, one writes.

        Raises:
            OSError: If it cannot be written; nothing half-written stays behind.
        """

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file durably, in place of what is there.

        Raises:
            Changed: If somebody else has replaced it since this folder read it, where that can be told.
            OSError: If it cannot be written; what was there stays.
        """

    @abstractmethod
    def commit(self, name: str, data: bytes, stays: Callable[[bytes], bool]) -> bytes:
        """Write a file that others may be writing, too; what is there afterwards.

        Where files cannot be replaced without others reading both, the first writer wins: what is there then stays if
        it is as good.

        Args:
            name: The file.
            data: What it should hold.
            stays: Whether what is there, where that is something else, is as good.

        Raises:
            OSError: As for `replace`.
        """

    @abstractmethod
    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """`replace` by parts, one after the other, of a file that is larger than memory.

        Raises:
            OSError: As for `replace`; what `parts` raises is passed on, and what was there stays.
        """

    @abstractmethod
    def append(self, name: str, line: bytes) -> None:
        """Add a line to a file durably; one that is torn is ended first. Of several files, `news` reads each line.

        Args:
            name: The file, to which nobody else adds. Where files do not grow, the line is a file of its own below it.
            line: Without its end.

        Raises:
            OSError: If it could not be written whole; what is there of it is a torn line.
        """

    @abstractmethod
    def news(self, inside: str, seen: dict[str, Any]) -> Iterator[tuple[str, int, bytes]]:
        """What was added to the files of a folder since they were last read, up to the last line that has its end.

        Args:
            inside: The folder, such as "journal".
            seen: Name of each file -> what was read of it, which is brought up to date; begin with {}.

        Yields:
            Name of a file, where the new bytes begin in it (0 for a file that is new, or another one of this name), and
            they.
        """

    @abstractmethod
    def settle(self, name: str) -> str:
        """Give a file another name, so that nobody adds to it any more; that name. Lines that are being written go
        into it or into a new file of the old name, and are not lost.

        Raises:
            FileNotFoundError: If there is no such file.
        """

    @abstractmethod
    def names(self, inside: str) -> Iterator[str]:
        """Names of all files below one, such as "shards", unfinished ones left out; in no particular order."""

    @abstractmethod
    def listed(self, inside: str, before: Listing | None = None) -> Listing:
        """What lies right in a folder; nothing if there is no such folder.

        Args:
            inside: The folder.
            before: What lay there when last listed, which is returned if it cannot have changed since.
        """

    @abstractmethod
    def stamp(self, name: str) -> Hashable:
        """What changes when a file does.

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
        """Remove a file, if it is there."""

    @abstractmethod
    def prepare(self, inside: str) -> None:
        """Make a folder that files can be written into, and sweep up what dead writers have left in it.

        Raises:
            OSError: If it cannot be made.
        """

    def path(self, name: str) -> Path | None:
        """Where a file lies, or would, in the file system; None where it lies elsewhere, and `read` reads it."""
        return None


@dataclass(frozen=True)
class _Read:
    """What was read of a journal: which file it was, how far, and the last bytes up to there, with a line's hash."""

    stamp: Hashable = None
    start: int = 0
    last: bytes = b""


@final
class LocalFolder(Folder):
    """A folder of the file system.

    Args:
        root: Where it is, as seen from the working directory of now: a simulator may go elsewhere, for a while or for
            good. Folders within it are made as they are needed.
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
        self.replace(name, data)  # writers of the same block write the same bytes
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
        while not added(path, line):  # it was settled between opening and writing
            continue

    def news(self, inside: str, seen: dict[str, Any]) -> Iterator[tuple[str, int, bytes]]:
        try:
            with os.scandir(self.root / inside) as found:
                files = sorted(file.name for file in found if file.name.endswith(".jsonl"))
        except FileNotFoundError:
            return
        for file in files:
            name = f"{inside}/{file}"
            with suppress(FileNotFoundError):  # merged into another
                found, read = os.stat(self.root / name), seen.get(name, _Read())
                stamp = found.st_ino, found.st_size, found.st_mtime_ns
                if stamp == read.stamp:
                    continue
                start, data = read.start, self.read(name, read.start - len(read.last))
                if data.startswith(read.last):
                    data = data[len(read.last) :]
                else:  # it was settled, and its writer has begun another
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
    """What names the same folder from any other working directory."""
    path = folder.path("")
    return folder.name if path is None else str(path.resolve())


def on_disk(folder: Folder, what: str) -> Path:
    """Where a folder lies in the file system, from any working directory.

    Args:
        folder: The folder.
        what: What is to be kept there, in words.

    Raises:
        ValueError: If it lies elsewhere.
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
    """What is in a journal; nothing where it was merged into another one."""
    try:
        return folder.read(name)
    except FileNotFoundError:
        return b""
