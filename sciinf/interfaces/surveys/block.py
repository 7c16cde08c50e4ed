r"""One block of answers as one file: an HDF5 image, and behind it the SHA-256 of its bytes.

Datasets have one row for each observation, in order. `status` tells which have an answer; those without one have NaN.
HDF5 reads the file past the hash, and a reader that checks it does so before HDF5 sees a byte, for HDF5 can hang on
damaged files. The bytes depend on the content alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciinf.core.within import own_dataset

SCHEMA = 1
_HASH = 32  # bytes
_PER_FOLDER = 1_000
_COMPRESSED = "biu"


@dataclass(frozen=True)
class Block:
    """Answers to some observations.

    Args:
        columns: Name -> array, (rows, ...).
        messages: Row in the block -> what is to be said of it.
    """

    columns: Mapping[str, np.ndarray]
    messages: Mapping[int, str] = field(default_factory=dict)


def file_of(index: int) -> str:
    """Where a block lies in the folder of answers."""
    return f"blocks/{index // _PER_FOLDER:03d}/{index:08d}.h5"


def write_block(block: Block, index: int, survey: str, units: Mapping[str, str]) -> bytes:
    """The bytes of a block's file.

    Args:
        block: What is in it.
        index: Its number.
        survey: Identity of the folder it belongs to.
        units: Parameter -> unit, for readers without sciinf.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs.update({"schema": SCHEMA, "block": index, "survey": survey})
        file.attrs["parameters"], file.attrs["units"] = list(units), list(units.values())
        for name, array in sorted(block.columns.items()):
            packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
            file.create_dataset(name, data=array, **(packed if array.dtype.kind in _COMPRESSED else {}))
        file["messages/row"] = np.array(list(block.messages), dtype=np.int64)
        file["messages/text"] = np.array(list(block.messages.values()), dtype=h5py.string_dtype())
    data = image.getvalue()
    return data + hashlib.sha256(data).digest()


def whole(data: bytes) -> bytes:
    """The HDF5 image of a block's file.

    Raises:
        ValueError: If it is torn or changed.
    """
    image = data[:-_HASH]
    if len(data) <= _HASH or hashlib.sha256(image).digest() != data[-_HASH:]:
        raise ValueError("its bytes do not have the hash at their end")
    return image


def read_block(data: bytes, index: int, survey: str, names: frozenset[str] | None = None) -> Block:
    """What a file holds.

    Args:
        data: Its bytes.
        index: The block's number.
        survey: The folder that it must belong to.
        names: Which columns; all when left out.

    Raises:
        ValueError: If the file is damaged, of another block or folder, or leads out of itself.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(whole(data)), "r") as opened:
            file: Any = opened
            if int(file.attrs["schema"]) != SCHEMA:
                raise ValueError(f"it is of schema {file.attrs['schema']}, this version reads {SCHEMA}")
            if int(file.attrs["block"]) != index or str(file.attrs["survey"]) != survey:
                raise ValueError("it belongs to another block, or to other answers")
            found: dict[str, np.ndarray] = {}

            def take(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset) and not name.startswith("messages/"):
                    if names is None or name in names:
                        found[name] = own_dataset(file, name)[()]

            file.visititems(take)
            rows = own_dataset(file, "messages/row")[()]
            texts = own_dataset(file, "messages/text").asstr()[()]
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"it is not a readable block of answers ({error})") from error
    return Block(found, {int(row): str(text) for row, text in zip(rows, texts, strict=True)})
