"""Files of blocks are, to the byte, those that h5py's own objects write."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from h5py_blocks import KINDS, PRIOR, SERIES, by_h5py, made

from sciinf.campaigns.storage.outcome import failed_outcome
from sciinf.campaigns.storage.shard import Image, read_shard, write_shard
from sciinf.core import Observable, Outcome, Prior, Status


@pytest.mark.parametrize("rows", [1, 7, 1024, 2500])
@pytest.mark.parametrize("observables", [SERIES, KINDS, {"größe": Observable((0,))}], ids=["floats", "kinds", "empty"])
def test_a_file_is_the_one_that_h5py_writes(observables: dict[str, Observable], rows: int) -> None:
    theta, outcome = made(observables, rows)
    data, _ = write_shard(PRIOR, observables, "c" * 64, 2**40, theta, outcome)
    assert data == by_h5py(PRIOR, observables, "c" * 64, 2**40, theta, outcome)


def test_failed_rows_and_their_messages_are_written_alike() -> None:
    theta, sound = made(KINDS, 40)
    status = np.zeros(40, np.uint8)
    status[[3, 8]] = 1, 2
    mixed = Outcome(sound.x, torch.from_numpy(status), {3: "", 8: "ValueError: zu groß, 太大\n" + "z" * 1_900})
    for outcome in (mixed, failed_outcome(KINDS, 40, Status.RAISED, "all")):
        data, _ = write_shard(PRIOR, KINDS, "campaign", 3, theta, outcome)
        assert data == by_h5py(PRIOR, KINDS, "campaign", 3, theta, outcome)


@pytest.mark.parametrize("message", ["no file b\udc80.dat", "\ud800", "a\0b", "größe"])
def test_any_message_of_a_failed_row_can_be_stored(message: str) -> None:
    theta, outcome = made(SERIES, 2)[0], failed_outcome(SERIES, 2, Status.RAISED, message)
    _, found = read_shard(write_shard(PRIOR, SERIES, "campaign", 0, theta, outcome)[0], SERIES)
    assert found.messages[1] == message.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def test_a_prior_without_parameters_is_written_alike() -> None:
    theta, outcome = made(SERIES, 5, Prior.none())
    data, _ = write_shard(Prior.none(), SERIES, "campaign", 0, theta, outcome)
    assert data == by_h5py(Prior.none(), SERIES, "campaign", 0, theta, outcome)


def test_the_file_is_whole_whoever_still_holds_what_is_in_it() -> None:
    image = Image()
    held = image.dataset(image.root, "a", np.arange(6.0).reshape(3, 2), chunks=(3, 2))
    data = image.close()
    with h5py.File(io.BytesIO(data)) as opened:
        file: Any = opened
        assert file["a"][()].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
        assert file["a"].fletcher32
    assert not held.valid
