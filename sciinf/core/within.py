"""Safe reading of datasets from HDF5 files of unknown origin.

No data are read from other files, and impossible sizes are refused.

HDF5 follows links into other files, and reads datasets whose numbers lie in other files. It also returns a
dataset of any size of which nothing was written. A hash gives no protection, because the author of the file
writes the hash. Deflate packs at most 1,032 bytes into one byte. A dataset, or a chunk of a dataset, that
claims more than this factor allows was not written as it claims.
"""

from __future__ import annotations

import math
from typing import Any

_DEFLATED = 1_032


def own_dataset(file: Any, name: str) -> Any:
    """A dataset whose numbers lie in the given file.

    Args:
        file: The open file.
        name: Path of the dataset from the root of the file.

    Raises:
        KeyError: If there is no dataset of that name.
        OSError: If the dataset is not an array, lies in another file, or claims more numbers than the file
            can hold.
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
    """The names of the members of a group in a file; empty if there is no such group.

    Args:
        file: The open file.
        group: Path of the group from the root of the file.

    Raises:
        OSError: If the group is reached by a link.
    """
    import h5py

    at = _own(file, group)
    return [str(name) for name in at] if isinstance(at, h5py.Group) else []


def _own(file: Any, name: str) -> Any:
    """The group or dataset with a given path in a file; None if there is none.

    Raises:
        OSError: If a part of the path is a soft or external link.
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
