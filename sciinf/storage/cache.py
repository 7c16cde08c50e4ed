"""Blocks that were fetched from a service, kept in a folder of this machine, so that each is fetched once.

A file is called by the SHA-256 of its bytes, which are compared with it whenever it is read. So a cache cannot give
what a store does not acknowledge: of a block that was replaced the new bytes are asked for, by another name. Nothing
is ever removed; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import final

from sciinf.core.files import local_path, write_bytes

VARIABLE = "SCIINF_CACHE"


@final
class Cache:
    """A folder of blocks.

    Args:
        root: Where it is.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._full = root, False

    def get(self, sha256: str) -> bytes | None:
        """The bytes that have a hash; None where they are not there, or changed."""
        with suppress(OSError):
            data = self._file(sha256).read_bytes()
            return data if hashlib.sha256(data).hexdigest() == sha256 else None
        return None

    def put(self, sha256: str, data: bytes) -> None:
        """Keep bytes by their hash, if there is room.

        Warns:
            UserWarning: Once, if they cannot be written.
        """
        if self._full:
            return
        try:
            self._file(sha256).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file(sha256), data)
        except OSError as error:
            self._full = True
            warnings.warn(f"blocks are no longer kept in {self.root} ({VARIABLE}): {error}", stacklevel=2)

    def _file(self, sha256: str) -> Path:
        return self.root / sha256[:2] / f"{sha256}.h5"


def cache() -> Cache | None:
    """The folder that the environment names, if it does.

    Raises:
        ValueError: If it is no folder of the file system.
    """
    root = os.environ.get(VARIABLE)
    return Cache(local_path(root)) if root else None
