r"""One block of answers as one file: an HDF5 image, followed by the SHA-256 of its bytes.

Datasets have one row for each observation, in order. `status` tells which rows have an answer; a row without an answer
holds NaN. HDF5 ignores the hash at the end of the file. This module checks the hash before HDF5 sees a byte, because
HDF5 can hang on damaged files. The bytes depend only on the content.
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
_HASH = 32  # Bytes of the hash.
_PER_FOLDER = 1_000
_COMPRESSED = "biu"


@dataclass(frozen=True)
class Block:
    """Answers to consecutive observations.

    Args:
        columns: Name of a dataset -> array, (rows, ...).
        messages: Row in the block -> text of its findings, or the reason why the row has no answer.
    """

    columns: Mapping[str, np.ndarray]
    messages: Mapping[int, str] = field(default_factory=dict)


def file_of(index: int) -> str:
    """Path of a block's file within the folder of answers."""
    return f"blocks/{index // _PER_FOLDER:03d}/{index:08d}.h5"


def write_block(block: Block, index: int, survey: str, units: Mapping[str, str]) -> bytes:
    """The bytes of a block's file.

    Args:
        block: Content of the block.
        index: Number of the block.
        survey: Identity of the survey that the block belongs to.
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
    """Check the hash of a block's file, and return the HDF5 image.

    Raises:
        ValueError: If the file is incomplete or was changed.
    """
    image = data[:-_HASH]
    if len(data) <= _HASH or hashlib.sha256(image).digest() != data[-_HASH:]:
        raise ValueError("the hash at its end does not fit its bytes")
    return image


def read_block(data: bytes, index: int, survey: str, names: frozenset[str] | None = None) -> Block:
    """Read a block from the bytes of its file.

    Args:
        data: Bytes of the file.
        index: Number of the block.
        survey: Identity of the survey that the block must belong to.
        names: Names of the datasets to read; all if left out.

    Raises:
        ValueError: If the file is damaged, is of another block or survey, or has datasets that lie outside the file.
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
