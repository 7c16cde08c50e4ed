"""Small files of one structure, of which HDF5 writes the first: most of what a block of cheap rows costs is HDF5.

Files that hold sound rows of floats alone differ in numbers, and not in structure. HDF5 writes the first one and says
where the numbers lie, and those of the next file are put into a copy at the same places, with their checksums. The
first `_CHECKED` copies are compared with what HDF5 writes of the same numbers, and after one that differs HDF5 writes
all files.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

LARGEST = 2**17  # bytes of numbers, beyond which it matters little what HDF5 costs, and checksums would take memory
_CHECKED = 3
_MARK = 0x5C11_1F00_B10C_0000  # a block's number that stands nowhere else in a file


@final
class Form:
    """Files of one structure.

    Args:
        written: What HDF5 writes: number of the block, its content hash, its numbers by the dataset's path -> the file.
    """

    def __init__(self, written: Callable[[int, str, Mapping[str, NDArray[Any]]], bytes]) -> None:
        self._written, self._unchecked = written, _CHECKED
        self._data, self._places = b"", dict[str, int]()
        self._block = self._content = -1
        self._usable = True

    def file(self, block: int, content: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
        """The file of a block.

        Args:
            block: Its number.
            content: Its content hash.
            arrays: Path of each dataset -> its numbers: floats in one chunk; what is no float is the same in all files.
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
        """Have a file written, and look where numbers lie in it."""
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
    """The checksum that HDF5 puts behind a chunk of an even number of bytes: sums, modulo 65,535, of 16-bit words."""
    words = np.frombuffer(raw, ">u2").astype(np.uint64)
    from_here_on = np.arange(len(words), 0, -1, dtype=np.uint64)
    low, high = int(words.sum()), int((words * from_here_on).sum())
    low, high = ((total - 1) % 65_535 + 1 if total else 0 for total in (low, high))
    return high << 16 | low


def _put(image: bytearray, at: int, data: bytes) -> None:
    image[at : at + len(data)] = data
