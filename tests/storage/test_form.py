"""Blocks put into the form of an earlier one: each is what HDF5 writes, and a form that is not so is not used."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch
from h5py_blocks import PRIOR, SERIES, by_h5py, made

from sciinf.campaigns.storage import shard
from sciinf.campaigns.storage.shard import fletcher32, write_shard
from sciinf.core import Observable, Outcome, Prior, Status
from sciinf.core.named_laws import LogNormal, Normal

BLOCKS = 8
OTHER = Prior(rate=(LogNormal(0.0, 0.5), "1/d"), größe=(Normal(0.0, 1.0), "µm"))


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
    assert by_hdf5 == [shard._MARK, 0, 1, 2]
    assert written(20, failed=True)
    assert by_hdf5[4:] == [20]
    assert written(21)
    assert by_hdf5[4:] == [20]
    assert all(written(block, "d" * 64) for block in range(BLOCKS))
    assert by_hdf5[5:] == [shard._MARK, 0, 1, 2], "another campaign has another form"


@pytest.mark.parametrize(
    "kinds",
    [
        {"v": Observable((3,), "V", ("time",))},
        {"v": Observable((3,), "mV", ("place",))},
        {"v": Observable((3,), "mV", ("time",), "float64")},
        {"v": Observable((3,), "mV", ("time",), scale="log")},
        {"w": Observable((3,), "mV", ("time",))},
        {"v": Observable((1, 3), "mV", ("", "time"))},
    ],
    ids=["unit", "dims", "dtype", "scale", "name", "shape"],
)
def test_what_differs_in_more_than_numbers_has_another_form(kinds: dict[str, Observable]) -> None:
    """Of one campaign by name, which no two such stores are."""
    for own, prior in (({"v": Observable((3,), "mV", ("time",))}, PRIOR), (kinds, PRIOR), (kinds, OTHER)):
        for block in range(5):
            theta, outcome = made(own, 9, prior)
            assert write_shard(prior, own, "c", block, theta, outcome)[0] == by_h5py(
                prior, own, "c", block, theta, outcome
            )


def test_threads_share_a_form(by_hdf5: list[int]) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(written, range(60)))
    assert len(by_hdf5) < 60


@pytest.mark.parametrize(
    ("fault", "value"),
    [("fletcher32", lambda raw: 0), ("_put", lambda image, at, data: None), ("_MARK", 0)],
    ids=["checksum", "place", "mark"],
)
def test_a_form_that_gives_other_bytes_is_not_used(by_hdf5: list[int], monkeypatch, fault, value) -> None:
    monkeypatch.setattr(shard, fault, value)
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
