"""Datasets of HDF5 files that came from elsewhere: what is read lies in the file itself, and is no larger than it.

HDF5 follows links into other files, reads numbers that lie outside, and makes up a dataset of any size of which nothing
was written. A hash is no protection: who makes the file writes it. Deflate packs at most 1,032 bytes into one, so that
a dataset, or a chunk of it, that promises more was not written as it says.
"""

from __future__ import annotations

import math
from typing import Any

_DEFLATED = 1_032


def own_dataset(file: Any, name: str) -> Any:
    """A dataset whose numbers lie in its file.

    Args:
        file: The file, opened.
        name: Of the dataset, from the root.

    Raises:
        KeyError: If there is none.
        OSError: If it lies elsewhere, or promises more than can be in the file.
    """
    import h5py

    at = _own(file, name)
    if at is None:
        raise KeyError(f"there is no {name!r}")
    if not isinstance(at, h5py.Dataset) or at.shape is None:
        raise OSError(f"{name!r} is no array")
    if at.external or at.is_virtual:
        raise OSError(f"the numbers of {name!r} lie in other files")
    size = file.id.get_filesize()
    if max(math.prod(at.shape), math.prod(at.chunks or ())) * at.dtype.itemsize > _DEFLATED * size:
        raise OSError(f"{name!r} promises more numbers than a file of {size:,} bytes can hold")
    return at


def names_in(file: Any, group: str) -> list[str]:
    """What a group of a file is said to hold; nothing where there is no such group.

    Args:
        file: The file, opened.
        group: Its name, from the root.

    Raises:
        OSError: If it lies elsewhere.
    """
    import h5py

    at = _own(file, group)
    return [str(name) for name in at] if isinstance(at, h5py.Group) else []


def _own(file: Any, name: str) -> Any:
    """What has a name, reached by no link; None if there is none.

    Raises:
        OSError: If it is reached by a link.
    """
    import h5py

    at: Any = file
    for part in name.split("/"):
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise OSError(f"{name!r} is a link to another place or file")
        at = at[part]
    return at
