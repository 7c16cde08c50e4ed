"""One block of simulations as one HDF5 file, built in memory so that it reaches the disk whole or not at all.

`theta` (rows, D) in the prior's dtype with attributes names and units; `x/<name>` (rows, *event) in the observable's
dtype with attributes unit, dims and scale; `status` (rows,) uint8; `messages/row` and `messages/text` for the rows that
failed. The root's attributes are schema, block, campaign (which store it belongs to) and content (SHA-256 of the
arrays). The bytes depend on nothing else, so that a block simulated again gives the same file.

Floats are stored as they are with a checksum per chunk, because compression costs ten times the reading time for a
quarter of the space; integers and booleans compress well and are.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinf.core.prior import Prior
from sciinf.core.simulator import Observable, Outcome, X
from sciinf.core.within import own_dataset
from sciinf.storage.form import LARGEST, Form
from sciinf.storage.h5_image import Image, text

SCHEMA = 1
_CHUNK_ROWS = 1024
_CHUNK_BYTES = 16 * 2**20
_About = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, Observable], ...], str]
"""What all files of a campaign say: names and units of theta, observables, the campaign."""


def content_hash(theta: Tensor, x: X, status: Tensor) -> str:
    """SHA-256 over theta, x and status, names, dtypes and shapes included; the order of the names is immaterial."""
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
    """The file of one block, and its content hash.

    Args:
        prior: Names and units of theta.
        observables: Units, dims and scales of x.
        campaign: Identity of the store.
        block: The block's number.
        theta: (rows, D), in the prior's dtype, on the CPU.
        outcome: Normalised (`storage.outcome.normalise`).
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
    """Whether files of sound rows with arrays like these, all of them floats in one chunk, have one structure."""
    *numbers, status = arrays.values()
    floats = all(array.dtype.kind == "f" and array.size for array in numbers)
    small = len(status) <= _CHUNK_ROWS and sum(array.nbytes for array in numbers) <= LARGEST
    return floats and small and not status.any()


@functools.lru_cache(8)
def _form(about: _About, kinds: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]) -> Form:
    """The form of blocks that differ in numbers alone: of one campaign, with arrays of the same shapes and dtypes."""
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
    dataset = _write(image, image.root, "theta", arrays["theta"])  # held until the next is there: bytes are in order
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
    """theta and outcome of a file's bytes, which the caller has verified.

    Raises:
        OSError, KeyError: If the bytes are no shard, or lead out of themselves.
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
    """Block, campaign, content hash and status of a file that no journal vouches for, its content verified.

    Raises:
        ValueError: If it is no shard of this version, or its arrays do not have the hash it names.
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
