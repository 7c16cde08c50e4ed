"""Place of the bytes of one block: a file of its own, or a part of a pack.

Rows in the file system are read directly at offsets of the file, without HDF5. Elsewhere the block's bytes are first
read into memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any, final

from sciinf.campaigns.storage.folder import Folder
from sciinf.core.files import sha256_of, shown


@dataclass(frozen=True)
class FileRange:
    """A file with one block, or the range of bytes in a file that holds one block.

    Args:
        folder: Folder of the store.
        name: Name of the file.
        start: Position in the file where the block begins.
        size: Length of the block in bytes; None for the rest of the file.
        held: Bytes of the block, if they were read into memory; else None.
    """

    folder: Folder
    name: str
    start: int = 0
    size: int | None = None
    held: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """Path of the file, as messages name it."""
        return Path(self.folder.name, self.name)

    @property
    def words(self) -> str:
        """The place in words."""
        return shown(self.path) if self.size is None else f"{shown(self.path)} (from byte {self.start} on)"

    def stamp(self) -> Hashable:
        """Value that changes when the block changes or moves to another place.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        return self.name, self.start, self.folder.stamp(self.name)

    def data(self) -> bytes:
        """Bytes of the block.

        Raises:
            OSError: If the bytes cannot be read.
        """
        if self.held is not None:
            return self.held
        return self.folder.read(self.name, self.start, None if self.size is None else self.start + self.size)

    def sha256(self) -> str:
        """SHA-256 of the block's bytes, which are read in pieces if they are in the file system."""
        if self.folder.path(self.name) is None:
            return sha256_of(self.data())
        with ExitStack() as stack:
            return hashlib.file_digest(self.opened(stack), "sha256").hexdigest()  # type: ignore[arg-type]

    def opened(self, stack: ExitStack) -> RawIOBase | io.BytesIO:
        """The block as an open binary file, which the stack closes."""
        path = self.folder.path(self.name)
        if path is None:
            return stack.enter_context(io.BytesIO(self.data()))
        raw = stack.enter_context(path.open("rb", buffering=0))
        return raw if self.size is None else Window(raw, self.start, self.size)

    def hdf5(self, stack: ExitStack) -> Any:
        """The block as an open HDF5 file, which the stack closes. The caller must have verified the block."""
        import h5py

        path = self.folder.path(self.name)
        if path is not None and self.size is None:
            return stack.enter_context(h5py.File(path, "r", locking=False))
        return stack.enter_context(h5py.File(self.opened(stack), "r"))


@final
class Window(RawIOBase):
    """A part of an open file, which behaves like a file of its own.

    Args:
        raw: The open file, unbuffered.
        start: Position in the file where the part begins.
        size: Length of the part in bytes.
    """

    def __init__(self, raw: io.FileIO, start: int, size: int) -> None:
        self.raw, self.start, self.size, self.at = raw, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).cast("B")[: max(0, self.size - self.at)]
        self.raw.seek(self.start + self.at)
        count = self.raw.readinto(wanted) or 0
        self.at += count
        return count
