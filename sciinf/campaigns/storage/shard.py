"""One block of simulations as one HDF5 file, built in memory so that it reaches the disk whole or not at all.

`theta` (rows, D) has the prior's dtype, with attributes names and units. `x/<name>` (rows, *event) has the observable's
dtype, with attributes unit, dims and scale. `status` (rows,) is uint8. `messages/row` and `messages/text` hold the
messages of the rows that failed. The root's attributes are schema, block, campaign (digest of the store's campaign) and
content (SHA-256 of the arrays). The bytes depend on nothing else, so a block that is simulated again gives the same
file.

Floats are stored uncompressed with a checksum per chunk, because compression costs ten times the reading time for a
quarter of the space. Integers and booleans compress well and are compressed.

Files are made in memory by direct calls of the HDF5 library, because for small files h5py's objects cost more than
HDF5. Types and property lists are made once. Calls and settings are those of h5py's `create_dataset` and `attrs`, and
the bytes are the same too.

**Forms.** For blocks of cheap rows, most of the cost is HDF5. Files that hold only floats of rows without failures have
the same structure and differ only in their numbers. HDF5 writes the first such file and says where the numbers lie. For
the next file, its numbers and checksums are put into a copy at the same places. The first `_CHECKED` copies are
compared with what HDF5 writes for the same numbers. If a copy differs, HDF5 writes all files from then on.
"""

from __future__ import annotations

import functools
import hashlib
import io
import struct
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinf.core.observable import Observable, Outcome, X
from sciinf.core.prior import Prior
from sciinf.core.within import own_dataset

# Most bytes of numbers in a form. In larger files HDF5's cost matters little, and checksums would take memory.
LARGEST = 2**17
_CHECKED = 3
_MARK = 0x5C11_1F00_B10C_0000  # Placeholder for a block's number that occurs nowhere else in a file.


@final
class Form:
    """Files with the same structure, which differ only in numbers.

    Args:
        written: Function that writes a file with HDF5: (number of the block, content hash, dataset's path -> numbers)
            -> bytes of the file.
    """

    def __init__(self, written: Callable[[int, str, Mapping[str, NDArray[Any]]], bytes]) -> None:
        self._written, self._unchecked = written, _CHECKED
        self._data, self._places = b"", dict[str, int]()
        self._block = self._content = -1
        self._usable = True

    def file(self, block: int, content: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
        """Bytes of a block's file.

        Args:
            block: Number of the block.
            content: Content hash of the block.
            arrays: Path of each dataset -> its numbers. Floats are in one chunk; other arrays are the same in all
                files.
        """
        if self._usable and not self._data:
            self._learn(content, arrays)
        copy = self._copy(block, content, arrays) if self._usable else None
        if copy is not None and self._unchecked <= 0:
            return copy
        data = self._written(block, content, arrays)
        if copy is not None:
            self._unchecked -= 1
        self._usable = self._usable and copy == data
        return data

    def _learn(self, content: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a file with HDF5, and find the positions of the numbers in it."""
        import h5py

        data, mark, text = self._written(_MARK, content, arrays), struct.pack("=q", _MARK), content.encode()
        self._block, self._content = data.find(mark), data.find(text)
        self._usable = data.count(mark) == data.count(text) == 1
        with h5py.File(io.BytesIO(data), "r") as opened:
            file: Any = opened
            floats = [name for name, array in arrays.items() if array.dtype.kind == "f"]
            self._places = {name: file[name].id.get_chunk_info(0).byte_offset for name in floats}
        self._data = data

    def _copy(self, block: int, content: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
        image = bytearray(self._data)
        _put(image, self._block, struct.pack("=q", block))
        _put(image, self._content, content.encode())
        for name, place in self._places.items():
            raw = arrays[name].tobytes()
            _put(image, place, raw + struct.pack("<I", fletcher32(raw)))
        return bytes(image)


def fletcher32(raw: bytes) -> int:
    """Checksum that HDF5 adds to a chunk of an even number of bytes: sums, modulo 65,535, of 16-bit words."""
    words = np.frombuffer(raw, ">u2").astype(np.uint64)
    from_here_on = np.arange(len(words), 0, -1, dtype=np.uint64)
    low, high = int(words.sum()), int((words * from_here_on).sum())
    low, high = ((total - 1) % 65_535 + 1 if total else 0 for total in (low, high))
    return high << 16 | low


def _put(image: bytearray, at: int, data: bytes) -> None:
    image[at : at + len(data)] = data


@final
class Image:
    """An HDF5 file in memory.

    HDF5 writes a dataset's chunks when the dataset is closed, that is, when no variable refers to it any more. So the
    order of the bytes depends on how long a caller holds the result of `dataset`.

    Attributes:
        root: Root group of the file.
    """

    def __init__(self) -> None:
        h5, self._bytes, access = _hdf5(), io.BytesIO(), _access().copy()
        access.set_fileobj_driver(h5.h5fd.fileobj_driver, self._bytes)
        self.root: Any = h5.h5f.create(repr(self._bytes).encode(), h5.h5f.ACC_TRUNC, fapl=access)

    def group(self, name: str) -> Any:
        """Create a group in the root."""
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
        """Create a dataset in a group, in one piece or in chunks of rows; the result takes attributes.

        Args:
            group: The root, or a group.
            name: Name of the dataset; None for a dataset that gets its path later.
            array: Content of the dataset; text as objects (`text`).
            chunks: Shape of a chunk; () for one piece.
            packed: Whether chunks are compressed; otherwise they have a checksum.
        """
        h5, (stored, held) = _hdf5(), _types(array.dtype)
        called = None if name is None else name.encode()
        made = h5.h5d.create(group, called, stored, _space(array.shape), dcpl=_layout(chunks, packed))
        made.write(h5.h5s.ALL, h5.h5s.ALL, array, mtype=held)
        return made

    def linked(self, name: str, array: NDArray[Any]) -> None:
        """Create a dataset in one piece at a path, such as "messages/row", with the missing groups of the path."""
        _hdf5().h5o.link(self.dataset(self.root, None, array), self.root, name.encode(), lcpl=_with_groups())

    def attribute(self, of: Any, name: str, value: NDArray[Any]) -> None:
        """Create an attribute of a group or dataset."""
        stored, held = _types(value.dtype)
        _hdf5().h5a.create(of, name.encode(), stored, _space(value.shape)).write(value, mtype=held)

    def close(self) -> bytes:
        """Close the file and return its bytes, even if a caller still holds an object in it."""
        self.root.close()
        return self._bytes.getvalue()


def text(value: str | tuple[str, ...]) -> NDArray[Any]:
    """Text as an array for HDF5."""
    return np.array(value, dtype=object)


@functools.cache
def _hdf5() -> Any:
    """The module h5py, as `Any`: type checkers cannot see its compiled modules of direct HDF5 calls."""
    import h5py

    return h5py


@functools.cache
def _types(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """HDF5 types of numbers or text (objects), in the file and in memory."""
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


SCHEMA = 1
_CHUNK_ROWS = 1024
_CHUNK_BYTES = 16 * 2**20
_About = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, Observable], ...], str]
"""What all files of a campaign say: names and units of theta, observables, the campaign."""


def content_hash(theta: Tensor, x: X, status: Tensor) -> str:
    """SHA-256 over theta, x and status, with names, dtypes and shapes; the order of the names does not matter."""
    digest = hashlib.sha256()
    arrays = {"theta": theta, "status": status, **{f"x/{name}": value for name, value in x.items()}}
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name].numpy())
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def write_shard(
    prior: Prior, observables: Mapping[str, Observable], campaign: str, block: int, theta: Tensor, outcome: Outcome
) -> tuple[bytes, str]:
    """Bytes of the file of one block, and its content hash.

    Args:
        prior: Prior with names and units of theta.
        observables: Observables with units, dims and scales of x.
        campaign: Digest of the store's campaign.
        block: Number of the block.
        theta: Parameters, (rows, D), in the prior's dtype, on the CPU.
        outcome: Normalised outcome (`campaigns.storage.outcome.normalise`).
    """
    status = outcome.status if outcome.status is not None else torch.zeros(len(theta), dtype=torch.uint8)
    content = content_hash(theta, outcome.x, status)
    tensors = {"theta": theta, **{f"x/{name}": outcome.x[name] for name in observables}, "status": status}
    arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in tensors.items()}
    about = (prior.names, prior.units, tuple(observables.items()), campaign)
    if outcome.messages or not _only_numbers_differ(arrays):
        return _by_hdf5(about, block, content, arrays, outcome.messages), content
    form = _form(about, tuple((array.shape, array.dtype) for array in arrays.values()))
    return form.file(block, content, arrays), content


def _only_numbers_differ(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether files of such arrays have one structure: floats in one chunk, and no failed rows."""
    *numbers, status = arrays.values()
    floats = all(array.dtype.kind == "f" and array.size for array in numbers)
    small = len(status) <= _CHUNK_ROWS and sum(array.nbytes for array in numbers) <= LARGEST
    return floats and small and not status.any()


@functools.lru_cache(8)
def _form(about: _About, kinds: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]) -> Form:
    """Form of the blocks of one campaign whose arrays have the same shapes and dtypes."""
    return Form(lambda block, content, arrays: _by_hdf5(about, block, content, arrays, {}))


def _by_hdf5(
    about: _About, block: int, content: str, arrays: Mapping[str, NDArray[Any]], messages: Mapping[int, str]
) -> bytes:
    names, units, observables, campaign = about
    image = Image()
    for name, value in (("schema", SCHEMA), ("block", block)):
        image.attribute(image.root, name, np.array(value, np.int64))
    for name, words in (("campaign", campaign), ("content", content)):
        image.attribute(image.root, name, text(words))
    # A dataset is held until the next one exists, so that their bytes are in order.
    dataset = _write(image, image.root, "theta", arrays["theta"])
    for name, words in (("names", names), ("units", units)):
        image.attribute(dataset, name, text(words) if words else np.zeros(0))
    inside = image.group("x")
    for name, spec in observables:
        dataset = _write(image, inside, name, arrays[f"x/{name}"])
        for key, words in (("unit", spec.unit), ("scale", spec.scale), ("dims", spec.dims)):
            image.attribute(dataset, key, text(words))
    _write(image, image.root, "status", arrays["status"])
    image.linked("messages/row", np.array(list(messages), dtype=np.int64))
    image.linked("messages/text", text(tuple(messages.values())))
    return image.close()


def read_shard(data: bytes, observables: Mapping[str, Observable]) -> tuple[Tensor, Outcome]:
    """Read theta and outcome from a file's bytes, which the caller must have verified.

    Raises:
        OSError, KeyError: If the bytes are no shard, or refer to data outside the file.
    """
    import h5py

    with h5py.File(io.BytesIO(data), "r") as opened:
        file: Any = opened

        def own(name: str) -> Any:
            return own_dataset(file, name)

        theta = torch.from_numpy(own("theta")[()])
        x = {name: torch.from_numpy(own(f"x/{name}")[()]) for name in observables}
        status = torch.from_numpy(own("status")[()])
        rows, texts = own("messages/row")[()], own("messages/text").asstr()[()]
    return theta, Outcome(x, status, {int(row): str(text) for row, text in zip(rows, texts, strict=True)})


def embedded(data: bytes, observables: Mapping[str, Observable]) -> tuple[int, str, str, Tensor]:
    """Block, campaign, content hash and status of a file that no journal acknowledges, with its content verified.

    Raises:
        ValueError: If the file is no shard of this version, or its arrays do not have the hash written in it.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(data), "r") as opened:
            attrs: Any = opened.attrs
            schema, block = int(attrs["schema"]), int(attrs["block"])
            campaign, content = str(attrs["campaign"]), str(attrs["content"])
        theta, outcome = read_shard(data, observables)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"it is not a readable file of simulations ({error})") from error
    status = outcome.status
    if schema != SCHEMA or status is None or content_hash(theta, outcome.x, status) != content:
        raise ValueError("its arrays do not have the hash written in it")
    return block, campaign, content, status


def _write(image: Image, group: Any, name: str, array: NDArray[Any]) -> Any:
    if not array.size:
        return image.dataset(group, name, array)
    row_bytes = max(1, array.nbytes // len(array))
    rows = max(1, min(len(array), _CHUNK_ROWS, _CHUNK_BYTES // row_bytes))
    return image.dataset(group, name, array, chunks=(rows, *array.shape[1:]), packed=array.dtype.kind != "f")
