"""Files of blocks are, to the byte, those that h5py's own objects write."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from sciinf.core import Observable, Outcome, Prior, Status
from sciinf.core.named_laws import LogNormal, Normal
from sciinf.storage.h5_image import Image
from sciinf.storage.outcome import failed_outcome
from sciinf.storage.shard import content_hash, write_shard

PRIOR = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), größe=(Normal(0.0, 1.0), "µm"))
SERIES = {"v": Observable((3,), "mV", ("time",)), "wide": Observable((), "", (), "float64", "log")}
KINDS = {**SERIES, "n": Observable((2, 2), dtype="int64"), "v_mask": Observable((3,), dtype="bool")}
TEXT = h5py.string_dtype()


def by_h5py(
    prior: Prior, observables: dict[str, Observable], campaign: str, block: int, theta: Tensor, outcome: Outcome
) -> bytes:
    """A block's file as h5py's objects write it: what `write_shard` must give, whatever the version of HDF5."""
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


@pytest.mark.parametrize("rows", [1, 7, 1024, 2500])
@pytest.mark.parametrize("observables", [SERIES, KINDS, {"größe": Observable((0,))}], ids=["floats", "kinds", "empty"])
def test_a_file_is_the_one_that_h5py_writes(observables: dict[str, Observable], rows: int) -> None:
    theta, outcome = made(observables, rows)
    data, _ = write_shard(PRIOR, observables, "c" * 64, 2**40, theta, outcome)
    assert data == by_h5py(PRIOR, observables, "c" * 64, 2**40, theta, outcome)


def test_failed_rows_and_their_messages_are_written_alike() -> None:
    theta, sound = made(KINDS, 40)
    status = sound.status.clone() if sound.status is not None else None
    assert status is not None
    status[[3, 8, 9]] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    mixed = Outcome(sound.x, status, {3: "", 8: "ValueError: zu groß, 太大\n" + "z" * 1_900, 9: "\\0"})
    for outcome in (mixed, failed_outcome(KINDS, 40, Status.RAISED, "all")):
        data, _ = write_shard(PRIOR, KINDS, "campaign", 3, theta, outcome)
        assert data == by_h5py(PRIOR, KINDS, "campaign", 3, theta, outcome)


def test_a_prior_without_parameters_is_written_alike() -> None:
    theta, outcome = made(SERIES, 5, Prior.none())
    data, _ = write_shard(Prior.none(), SERIES, "campaign", 0, theta, outcome)
    assert data == by_h5py(Prior.none(), SERIES, "campaign", 0, theta, outcome)


def test_the_file_is_whole_whoever_still_holds_what_is_in_it() -> None:
    image = Image()
    held = image.dataset(image.root, "a", np.arange(6.0).reshape(3, 2), chunks=(3, 2))
    data = image.close()
    with h5py.File(io.BytesIO(data)) as file:
        assert file["a"][()].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
        assert file["a"].fletcher32
    assert not held.valid
