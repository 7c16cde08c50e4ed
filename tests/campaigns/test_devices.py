"""A GPU for each worker: the first that nobody has, and again that of a worker that has ended."""

from __future__ import annotations

import os

import torch

from sciinf.campaigns import devices
from sciinf.campaigns.devices import own_device, shared, streams


def test_workers_take_devices_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_HELD", held := list[int]())
    taken = [own_device("cuda", tmp_path, count=3) for _ in range(3)]
    assert taken == ["cuda:0", "cuda:1", "cuda:2"]
    os.close(held[1])  # as the kernel does when its worker ends
    assert own_device("cuda", tmp_path, count=3) == "cuda:1"
    for device in ("cpu", "cuda:2", "mps"):
        assert own_device(device, tmp_path, count=3) == device
    assert own_device("cuda", tmp_path, count=1) == "cuda"
    for file in {held[0], *held[2:]}:
        os.close(file)


def test_no_more_workers_than_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [streams(device, 8) for device in ("cuda", "cuda:1", "cpu")] == [2, 8, 8]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert streams("cuda", 8) == 1


def test_workers_of_a_queue_take_devices_in_turn_and_wait_for_none(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_HELD", held := list[int]())
    taken = list[str]()
    for _ in range(3):
        shared.cache_clear()  # each in a process of its own
        taken.append(shared("cuda", tmp_path / "locks", count=2))
    shared.cache_clear()
    assert taken == ["cuda:0", "cuda:1", f"cuda:{os.getpid() % 2}"]
    assert [shared(device, tmp_path / "locks", count=2) for device in ("cpu", "cuda:1")] == ["cpu", "cuda:1"]
    assert shared("cuda", tmp_path / "locks", count=1) == "cuda"
    for file in held:
        os.close(file)
