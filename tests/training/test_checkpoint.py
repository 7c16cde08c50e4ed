"""Checkpoints: what is kept is a copy, what is written comes back, and writing takes a small share of the time."""

from __future__ import annotations

import time

import pytest
import torch

from sciinf.training import checkpoint
from sciinf.training.checkpoint import Checkpoints, read_checkpoint

ABOUT = {"inputs": "a", "epochs": 3}


def test_what_is_kept_is_a_copy_and_comes_back(tmp_path):
    path, weights = tmp_path / "c.safetensors", torch.arange(4.0)
    checkpoints = Checkpoints(path)
    assert checkpoints.keep(ABOUT, {"weights": {"now": weights}, "none": {}})
    weights += 1.0
    about, groups = read_checkpoint(path, "a", "cpu")
    assert about == ABOUT
    assert torch.equal(groups["weights"]["now"], torch.arange(4.0))
    with pytest.warns(UserWarning, match="unfinished training of another estimator, store, recipe or seed"):
        assert read_checkpoint(path, "b", "cpu") is None
    assert not checkpoints.flush()  # it is written
    checkpoints.clear()
    assert read_checkpoint(path, "a", "cpu") is None


def test_writing_takes_a_share_of_the_time_and_nothing_is_lost(tmp_path, monkeypatch):
    path, now = tmp_path / "c.safetensors", [100.0]

    def slow(*arguments):
        now[0] += 2.0
        written.append(arguments[1]["epochs"])
        original(*arguments)

    original, written = checkpoint.write_checkpoint, []
    monkeypatch.setattr(checkpoint, "write_checkpoint", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(path)
    for epoch in range(200):  # one second each
        now[0] += 1.0
        checkpoints.keep({**ABOUT, "epochs": epoch}, {"weights": {"now": torch.full((2,), float(epoch))}})
    assert now[0] == 300.0 + 2.0 * len(written)
    assert 2.0 * len(written) <= 0.06 * now[0]
    assert checkpoints.flush()
    about, groups = read_checkpoint(path, "a", "cpu")
    assert about["epochs"] == 199
    assert groups["weights"]["now"].tolist() == [199.0, 199.0]


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match="is damaged .* so training starts anew"):
        assert read_checkpoint(tmp_path / "c.safetensors", "a", "cpu") is None


@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_one_flipped_bit_is_told(tmp_path, place):
    path = tmp_path / "c.safetensors"
    Checkpoints(path).keep(ABOUT, {"weights": {"now": torch.arange(4000.0), "mask": torch.ones(3, dtype=torch.bool)}})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged .* so training starts anew"):
        assert read_checkpoint(path, "a", "cpu") is None
