"""Where the files of a store lie: a folder of the file system, or what behaves like one.

Names are relative, with slashes. A file is there whole or not at all, whoever is killed and whenever: it is created or
replaced in one step, and durable when the call returns.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

from sciinf.core.files import write_bytes


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
            OSError: If it cannot be written; what was there stays.
        """

    @abstractmethod
    def names(self, inside: str) -> Iterator[str]:
        """Names of all files below one, such as "shards", unfinished ones left out; in no particular order."""

    @abstractmethod
    def stamp(self, name: str) -> Hashable:
        """What changes when a file does.

        Raises:
            FileNotFoundError: If there is no such file.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def path(self, name: str) -> Path | None:
        """Where a file lies, or would, in the file system; None where it lies elsewhere, and `read` reads it."""
        return None


@final
class Local(Folder):
    """A folder of the file system.

    Args:
        root: Where it is; folders within it are made as they are needed.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, str(root)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with open(self.root / name, "rb") as file:
            file.seek(start)
            return file.read() if stop is None else file.read(max(0, stop - start))

    def create(self, name: str, data: bytes) -> bool:
        if (self.root / name).exists():
            return False
        self.replace(name, data)  # of two at once the last one wins: writers of the same name write the same bytes
        return True

    def replace(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)

    def names(self, inside: str) -> Iterator[str]:
        for folder, _, files in os.walk(self.root / inside):
            below = Path(folder).relative_to(self.root).as_posix()
            yield from (f"{below}/{file}" for file in files if not file.startswith("."))

    def stamp(self, name: str) -> Hashable:
        found = (self.root / name).stat()
        return found.st_size, found.st_mtime_ns

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            (self.root / name).unlink()

    def path(self, name: str) -> Path | None:
        return self.root / name
