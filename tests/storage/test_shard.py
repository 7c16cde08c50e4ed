"""The hash of a block's content: the same for the same content, another for any other."""

from __future__ import annotations

import io

import h5py
import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.storage.shard import content_hash, embedded, write_shard
from sciinf.core import Observable, Outcome, Prior


def test_the_content_hash_tells_names_dtypes_and_shapes_apart():
    theta, status = torch.zeros(2, 1), torch.zeros(2, dtype=torch.uint8)
    hashes = {
        content_hash(theta, x, status)
        for x in (
            {"a": torch.zeros(2, 4)},
            {"a": torch.zeros(2, 2, 2)},
            {"b": torch.zeros(2, 4)},
            {"a": torch.zeros(2, 4, dtype=torch.float64)},
            {"a": torch.zeros(2, 4, dtype=torch.int64)},
        )
    }
    assert len(hashes) == 5
    both = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert content_hash(theta, both, status) == content_hash(theta, dict(reversed(both.items())), status)


@pytest.mark.parametrize("name", ["theta", "x/v", "status"])
def test_numbers_changed_in_a_sound_file_are_found_without_a_journal(name):
    observables, status = {"v": Observable((3,))}, torch.zeros(4, dtype=torch.uint8)
    outcome = Outcome({"v": torch.ones(4, 3)}, status)
    data, content = write_shard(Prior(a=td.Normal(0.0, 1.0)), observables, "campaign", 5, torch.zeros(4, 1), outcome)
    assert embedded(data, observables)[:3] == (5, "campaign", content)
    image = io.BytesIO(data)
    with h5py.File(image, "r+") as file:
        file[name][2] = 1 + file[name][2]  # with the checksums of HDF5 that go with it
    with pytest.raises(ValueError, match="its arrays do not have the hash written in it"):
        embedded(image.getvalue(), observables)
