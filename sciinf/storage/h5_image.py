"""HDF5 files made in memory by the library's own calls, for small files cost more in h5py's objects than in HDF5.

Types and property lists are made once. Calls and settings are those of h5py's `create_dataset` and `attrs`, and so are
the bytes.
"""

from __future__ import annotations

import functools
import io
from typing import Any, final

import numpy as np
from numpy.typing import NDArray


@final
class Image:
    """An HDF5 file in memory.

    A dataset's chunks go into the file when the dataset is closed, which is when nobody holds it any more. So the order
    of the bytes depends on how long a caller holds what `dataset` returns.

    Attributes:
        root: The group in which everything lies.
    """

    def __init__(self) -> None:
        h5, self._bytes, access = _hdf5(), io.BytesIO(), _access().copy()
        access.set_fileobj_driver(h5.h5fd.fileobj_driver, self._bytes)
        self.root: Any = h5.h5f.create(repr(self._bytes).encode(), h5.h5f.ACC_TRUNC, fapl=access)

    def group(self, name: str) -> Any:
        """A new group in the root."""
        return _hdf5().h5g.create(self.root, name.encode())

    def dataset(
        self,
        group: Any,
        name: str | None,
        array: NDArray[Any],
        *,
        chunks: tuple[int, ...] = (),
        packed: bool = False,
    ) -> Any:
        """A new dataset in a group, which takes attributes: in one piece, or in chunks of rows.

        Args:
            group: The root, or a group.
            name: Of the dataset; None for one that gets its path later.
            array: What it holds; text as objects (`text`).
            chunks: Shape of a chunk; () for one piece.
            packed: Whether chunks are compressed; else they have a checksum.
        """
        h5, (stored, held) = _hdf5(), _types(array.dtype)
        called = None if name is None else name.encode()
        made = h5.h5d.create(group, called, stored, _space(array.shape), dcpl=_layout(chunks, packed))
        made.write(h5.h5s.ALL, h5.h5s.ALL, array, mtype=held)
        return made

    def linked(self, name: str, array: NDArray[Any]) -> None:
        """A dataset in one piece at a path, such as "messages/row", whose groups are made where they are not there."""
        _hdf5().h5o.link(self.dataset(self.root, None, array), self.root, name.encode(), lcpl=_with_groups())

    def attribute(self, of: Any, name: str, value: NDArray[Any]) -> None:
        """An attribute of a group or dataset."""
        stored, held = _types(value.dtype)
        _hdf5().h5a.create(of, name.encode(), stored, _space(value.shape)).write(value, mtype=held)

    def close(self) -> bytes:
        """The bytes of the file, whoever still holds what is in it."""
        self.root.close()
        return self._bytes.getvalue()


def text(value: str | tuple[str, ...]) -> NDArray[Any]:
    """Text as HDF5 takes it."""
    return np.array(value, dtype=object)


@functools.cache
def _hdf5() -> Any:
    """h5py, whose modules of HDF5's own calls are compiled, so that checkers of types see nothing of them."""
    import h5py

    return h5py


@functools.cache
def _types(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """What numbers or text (objects) are in a file, and in memory."""
    h5 = _hdf5()
    kind = h5.string_dtype() if dtype.kind == "O" else dtype
    return h5.h5t.py_create(kind, logical=True), h5.h5t.py_create(kind)


@functools.lru_cache(256)
def _space(shape: tuple[int, ...]) -> Any:
    return _hdf5().h5s.create_simple(shape)


@functools.cache
def _access() -> Any:
    h5 = _hdf5()
    access = h5.h5p.create(h5.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5.h5f.LIBVER_EARLIEST, h5.h5f.LIBVER_LATEST)
    access.set_fclose_degree(h5.h5f.CLOSE_STRONG)
    return access


@functools.cache
def _with_groups() -> Any:
    h5 = _hdf5()
    links = h5.h5p.create(h5.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    return links


@functools.lru_cache(64)
def _layout(chunks: tuple[int, ...], packed: bool) -> Any:
    h5 = _hdf5()
    layout = h5.h5p.create(h5.h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)
    if chunks:
        layout.set_chunk(chunks)
    if chunks and packed:
        layout.set_shuffle()
        layout.set_deflate(4)
    elif chunks:
        layout.set_fletcher32()
    return layout
