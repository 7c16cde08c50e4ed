"""The folder that an address names: one of the file system, or objects of a service."""

from __future__ import annotations

import re
from pathlib import Path

from sciinf.campaigns.storage.folder import Folder, LocalFolder, there
from sciinf.core.files import is_remote, shown

_OBJECTS = re.compile("s3:/+")


def folder_at(path: str | Path) -> Folder:
    """The folder that a path names: one of the file system, or `s3://BUCKET/PREFIX`.

    Raises:
        ValueError: If it is an address of another kind, or one that has no bucket or no prefix.
        ImportError: If it is of objects, and the package that reads them is not installed.
    """
    if not is_remote(path):
        return LocalFolder(Path(path))
    if not _OBJECTS.match(str(path)):
        raise ValueError(
            f"{shown(path)}: simulations lie in a folder of the file system, or in objects at s3://BUCKET/X"
        )
    from sciinf.campaigns.storage.objects import Objects

    return Objects(_OBJECTS.sub("s3://", str(path), count=1))


def store_at(path: str | Path) -> Folder | None:
    """The folder that a path names if a store has been begun there; None where there is none."""
    folder = folder_at(path)
    return folder if there(folder, "store.json") else None
