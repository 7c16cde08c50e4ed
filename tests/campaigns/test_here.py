"""Blocks in this process: what is on the disk while the next block is simulated."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from sciinf import Normal, Observable, Prior, Simulator, simulate
from sciinf.campaigns import Store
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.workers import Here


class Watching(Simulator):
    """Notes, as each block begins, how many files there are and whether a thread writes."""

    name, prior, observables, block = "watching", Prior(a=Normal(0.0, 1.0)), {"x": Observable((2,))}, 10

    def __init__(self, folder: Path, nap: float = 0.0) -> None:
        self.folder, self.naps = folder, [nap]
        self.there: list[int] = []
        self.beside: list[bool] = []

    def __call__(self, theta, *, generator):
        self.there.append(len(list(self.folder.rglob("0*.h5"))))
        self.beside.append(any(thread.name.startswith("writes") for thread in threading.enumerate()))
        time.sleep(self.naps[min(len(self.there), len(self.naps)) - 1])
        return {"x": theta + torch.randn(len(theta), 2, generator=generator)}


def test_a_long_block_is_on_the_disk_before_the_next_begins(tmp_path):
    simulator = Watching(tmp_path / "s", nap=0.11)
    simulate(simulator, tmp_path / "s", 50, progress=False, engine=Here())
    assert simulator.there == [0, 1, 2, 3, 4]
    assert not any(simulator.beside), "a simulator that forks finds no other thread"


def test_a_short_block_is_written_while_the_next_is_simulated(tmp_path):
    simulator = Watching(tmp_path / "s")
    store = simulate(simulator, tmp_path / "s", 500, progress=False, engine=Here())
    assert (len(store), store.missing(), store.damaged()) == (500, [], [])
    assert (simulator.beside[0], simulator.beside[-1]) == (False, True)
    again = simulate(Watching(tmp_path / "t", nap=0.11), tmp_path / "t", 30, progress=False, engine=Here())
    assert [again.history(k)[-1].sha256 for k in range(3)] == [store.history(k)[-1].sha256 for k in range(3)]


def test_who_stops_after_any_block_loses_none_that_was_simulated(tmp_path):
    """The third takes long, and is on the disk when the second is told of."""
    simulator = Watching(tmp_path / "s")
    simulator.naps = [0.0, 0.0, 0.11]
    store = Store.create(tmp_path / "s", simulator, seed=0, block=10, rows=50)
    campaign = Campaign(store, simulator, list(range(5)), device="cpu", timeout=None)
    with closing(Here().run(campaign)) as entries:
        assert [next(entries).block for _ in range(2)] == [0, 1]
    there = sorted(index for index, _ in Store(tmp_path / "s").entries())
    assert there == list(range(len(simulator.there))), "all that were simulated"


class Breaking(Watching):
    """One block of it breaks what was promised."""

    def __call__(self, theta, *, generator):
        found = super().__call__(theta, generator=generator)
        return {"x": found["x"][:, :1]} if len(self.there) == 8 else found


def test_what_was_simulated_before_an_error_is_kept(tmp_path):
    with pytest.raises(ValueError, match="blocks finished before are kept"):
        simulate(Breaking(tmp_path / "s"), tmp_path / "s", 200, progress=False, engine=Here())
    there = Store(tmp_path / "s")
    assert (sorted(index for index, _ in there.entries()), there.damaged()) == (list(range(7)), [])


def test_a_block_that_cannot_be_written_ends_the_campaign_with_its_reason(tmp_path):
    simulator = Watching(tmp_path / "s")
    simulate(simulator, tmp_path / "s", 20, progress=False, engine=Here())
    (tmp_path / "s/shards/000/00000005.h5").mkdir()  # where a file is to be
    with pytest.raises(OSError, match=r"cannot be written: .*Blocks committed so far are safe"):
        simulate(simulator, tmp_path / "s", 200, progress=False, engine=Here())
    (tmp_path / "s/shards/000/00000005.h5").rmdir()
    assert not simulate(simulator, tmp_path / "s", 200, progress=False).missing()


def test_an_error_does_not_hide_that_the_block_before_could_not_be_written(tmp_path):
    simulator = Breaking(tmp_path / "s")
    store = Store.create(tmp_path / "s", simulator, seed=0, block=10, rows=100)
    campaign = Campaign(store, simulator, list(range(10)), device="cpu", timeout=None)
    (tmp_path / "s/shards/000/00000006.h5").mkdir(parents=True)
    with pytest.raises(OSError, match="cannot be written"):
        list(Here().run(campaign))
    assert sorted(index for index, _ in Store(tmp_path / "s").entries()) == list(range(6))


class Wandering(Watching):
    """Works in a folder of its own, which is gone afterwards or stays; stays there itself, if told so."""

    def __init__(self, folder: Path, work: Path, *, returns: bool) -> None:
        super().__init__(folder)
        self.work, self.returns = work, returns

    def __call__(self, theta, *, generator):
        found, before = super().__call__(theta, generator=generator), os.getcwd()
        os.chdir(self.work)
        time.sleep(0.003)
        if self.returns:
            os.chdir(before)
        return found


@pytest.mark.parametrize("returns", [True, False])
def test_a_simulator_that_changes_the_working_directory_takes_no_block_there(tmp_path, monkeypatch, returns):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    store = simulate(Wandering(tmp_path / "s", tmp_path / "work", returns=returns), "s", 300, progress=False)
    assert (store.missing(), store.damaged(), list((tmp_path / "work").iterdir())) == ([], [], [])
    assert store.folder.name == "s", "messages call it as the user did"
    assert store.digest == simulate(Watching(tmp_path / "s"), tmp_path / "s", 300, progress=False).digest


@pytest.mark.slow
def test_a_campaign_in_a_thread_goes_on_when_the_main_thread_has_ended(tmp_path):
    code = f"""
import threading
from pathlib import Path
from sciinf import simulate
from tests.campaigns.test_here import Watching
folder = Path({str(tmp_path / "s")!r})
threading.Thread(target=lambda: simulate(Watching(folder, nap=0.01), folder, 300, progress=False)).start()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, cwd=Path(__file__).parents[2])
    assert Store(tmp_path / "s").missing() == []
