"""Blocks put into the form of an earlier one: each is what HDF5 writes, and a form that is not so is not used."""

from __future__ import annotations

import io

import h5py
import numpy as np
import pytest
import torch
from h5py_blocks import PRIOR, SERIES, by_h5py, made

from sciinf.core import Outcome, Status
from sciinf.storage import form, shard
from sciinf.storage.form import fletcher32
from sciinf.storage.shard import write_shard

BLOCKS = 8


@pytest.fixture
def by_hdf5(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that HDF5 writes, none of which were written before."""
    real, blocks = shard._by_hdf5, list[int]()

    def counting(about, block, content, arrays, messages):
        blocks.append(block)
        return real(about, block, content, arrays, messages)

    monkeypatch.setattr(shard, "_by_hdf5", counting)
    shard._form.cache_clear()
    return blocks


def written(block: int, campaign: str = "c" * 64, failed: bool = False) -> bool:
    """Whether a block, whose numbers are its own, is what h5py writes."""
    theta, outcome = made(SERIES, 30)
    x = {name: value * (block - 1) for name, value in outcome.x.items()}  # of block 1 they are zeros
    status = torch.zeros(30, dtype=torch.uint8)
    status[4] = Status.RAISED * failed
    own = Outcome(x, status, {4: "ValueError: zu groß"} if failed else {})
    data, _ = write_shard(PRIOR, SERIES, campaign, block, theta + block, own)
    return data == by_h5py(PRIOR, SERIES, campaign, block, theta + block, own)


def test_hdf5_writes_the_first_blocks_and_all_are_its_own(by_hdf5: list[int]) -> None:
    assert all(written(block) for block in range(BLOCKS))
    assert by_hdf5 == [form._MARK, 0, 1, 2]
    assert written(20, failed=True)
    assert by_hdf5[4:] == [20]
    assert written(21)
    assert by_hdf5[4:] == [20]
    assert all(written(block, "d" * 64) for block in range(BLOCKS))
    assert by_hdf5[5:] == [form._MARK, 0, 1, 2], "another campaign has another form"


@pytest.mark.parametrize(
    ("fault", "value"),
    [("fletcher32", lambda raw: 0), ("_put", lambda image, at, data: None), ("_MARK", 0)],
    ids=["checksum", "place", "mark"],
)
def test_a_form_that_gives_other_bytes_is_not_used(by_hdf5: list[int], monkeypatch, fault, value) -> None:
    monkeypatch.setattr(form, fault, value)
    assert all(written(block) for block in range(BLOCKS))
    assert by_hdf5[1:] == list(range(BLOCKS))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(8, np.uint16),
        np.full(8, 0xFFFF, np.uint16),
        np.full(65_535, 1, ">u2"),
        np.arange(1, 65_535, dtype=">u2"),
        np.frombuffer(np.random.default_rng(0).bytes(2**20), np.uint16),
        np.frombuffer(b"\xff" * 2**20, np.uint16),
    ],
    ids=["zeros", "ones", "sum is 0 mod 65535", "each word", "random", "largest"],
)
def test_the_checksum_is_that_of_hdf5(array: np.ndarray) -> None:
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        held = file.create_dataset("a", data=array.view(np.uint8), chunks=(array.nbytes,), fletcher32=True)
        file.flush()
        stored = held.id.read_direct_chunk((0,))[1]
    assert stored == array.tobytes() + fletcher32(array.tobytes()).to_bytes(4, "little")
