"""Blocks as h5py's own objects write them, which is what ours must be to the byte, whatever the version of HDF5."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.storage.shard import content_hash
from sciinf.core import Observable, Outcome, Prior
from sciinf.core.named_laws import LogNormal, Normal

PRIOR = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), größe=(Normal(0.0, 1.0), "µm"))
SERIES = {"v": Observable((3,), "mV", ("time",)), "wide": Observable((), "", (), "float64", "log")}
KINDS = {**SERIES, "n": Observable((2, 2), dtype="int64"), "v_mask": Observable((3,), dtype="bool")}
TEXT = h5py.string_dtype()


def by_h5py(
    prior: Prior, observables: dict[str, Observable], campaign: str, block: int, theta: Tensor, outcome: Outcome
) -> bytes:
    """A block's file, of the arguments of `write_shard`."""
    image, status = io.BytesIO(), outcome.status
    assert status is not None
    with h5py.File(image, "w") as file:
        content = content_hash(theta, outcome.x, status)
        file.attrs.update({"schema": 1, "block": block, "campaign": campaign, "content": content})
        dataset = written(file, "theta", theta)
        dataset.attrs["names"], dataset.attrs["units"] = list(prior.names), list(prior.units)
        for name, spec in observables.items():
            dataset = written(file, f"x/{name}", outcome.x[name])
            dataset.attrs["unit"], dataset.attrs["scale"] = spec.unit, spec.scale
            dataset.attrs["dims"] = np.array(spec.dims, dtype=TEXT)
        written(file, "status", status)
        file["messages/row"] = np.array(list(outcome.messages), dtype=np.int64)
        file["messages/text"] = np.array(list(outcome.messages.values()), dtype=TEXT)
    return image.getvalue()


def written(file: h5py.File, name: str, value: Tensor) -> Any:
    array = value.numpy()
    if not array.size:
        return file.create_dataset(name, data=array)
    chunks = (min(len(array), 1024), *array.shape[1:])
    if array.dtype.kind == "f":
        return file.create_dataset(name, data=array, chunks=chunks, fletcher32=True)
    return file.create_dataset(name, data=array, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True)


def made(observables: dict[str, Observable], rows: int, prior: Prior = PRIOR) -> tuple[Tensor, Outcome]:
    generator = torch.Generator().manual_seed(rows)
    x = {}
    for name, spec in observables.items():
        numbers = 9 * torch.randn(rows, *spec.shape, generator=generator, dtype=torch.float64)
        x[name] = (numbers > 0) if spec.dtype == "bool" else numbers.to(spec.torch_dtype)
    theta = torch.randn(rows, len(prior), generator=generator)
    return theta, Outcome(x, torch.zeros(rows, dtype=torch.uint8))
