"""Rows that are there as a campaign is begun or joined: whose they are, how many failed, and what is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sciinf.campaigns import beginning, work
from sciinf.campaigns.block import run_block
from sciinf.campaigns.cluster import Cluster
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.slurm_array import SlurmArray
from sciinf.campaigns.storage.folder import LocalFolder as LocalFolder
from sciinf.campaigns.store import Store
from sciinf.campaigns.work import plan
from sciinf.core import Status, load_simulator

SIMULATOR = """
import torch
from torch import distributions as td
from sciinf.core import Observable, Prior, Simulator


class Noisy(Simulator):
    name = "noisy"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = 5

    def __call__(self, theta, *, generator):
        return {"v": theta + torch.randn(len(theta), 3, generator=generator)}


simulator = Noisy()
"""
ROWS, BLOCKS = 60, 12


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with a simulator's file."""
    (tmp_path / "noisy.py").write_text(SIMULATOR)
    return tmp_path


@pytest.fixture
def begun(made: Path) -> Store:
    """A store in which nothing is simulated yet."""
    return plan(load_simulator(made / "noisy.py"), made / "store", ROWS, seed=3)


def other_state(made: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulator as it is where a data file is another one, which no list of files can tell."""
    simulator = load_simulator(made / "noisy.py")
    kind: Any = type(simulator)
    before: Any = kind.__call__

    def other(self: Any, theta: Any, *, generator: Any) -> Any:
        return {"v": before(self, theta, generator=generator)["v"] + 1}

    monkeypatch.setattr(kind, "__call__", other)
    return simulator


def test_rows_of_another_state_of_the_simulator_are_found_by_workers_and_plans(
    begun: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_block(load_simulator(made / "noisy.py"), begun, 0)
    other = other_state(made, monkeypatch)
    with pytest.raises(ValueError, match="are of another state of the simulator 'noisy'"):
        work.work(Store(begun.path), other, progress=False)
    with pytest.raises(ValueError, match="are of another state of the simulator 'noisy'"):
        plan(other, begun.path, ROWS, seed=3)
    assert Store(begun.path).missing() == list(range(1, BLOCKS))


def test_rows_of_another_state_that_others_commit_meanwhile_are_found(
    begun: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, simulator = Store(begun.path), load_simulator(made / "noisy.py")
    other = other_state(made, monkeypatch)
    refresh = Store.refresh

    def somebody(self: Store) -> None:
        refresh(self)
        if self is begun and len(self) == 15 and first.lacks(5):
            run_block(other, first, 5)

    worked = load_simulator(made / "noisy.py")
    assert type(worked) is not type(simulator)
    monkeypatch.setattr(Store, "refresh", somebody)
    with pytest.raises(ValueError, match="are of another state of the simulator"):
        work.work(begun, worked, progress=False)


def test_versions_other_than_those_of_the_first_blocks_are_told(
    begun: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = load_simulator(made / "noisy.py")
    run_block(simulator, begun, 0)
    real = beginning.conditions
    monkeypatch.setattr(beginning, "conditions", lambda *given: {**real(*given), "numpy": "0.1"})
    with pytest.warns(UserWarning, match=r"versions here are not those .*numpy \S+ -> 0\.1"):
        work.work(Store(begun.path), simulator, progress=False)


def test_a_worker_whose_own_rows_all_failed_goes_by_the_rows_of_the_whole_store(made: Path) -> None:
    simulator = load_simulator(made / "noisy.py")
    store = plan(simulator, made / "store", 2_000, block=100)
    for index in range(2, 20):
        run_block(simulator, store, index)
    (store.path / "working").mkdir()
    for number in range(6):
        (store.path / "working" / f"{number % 2}.other-{number}.aa.died").touch()
    found = work.work(Store(store.path), simulator, progress=False)
    assert [entry.ok for entry in found] == [0, 0]
    assert Store(store.path).counts[Status.RAISED] == 200


def test_a_store_is_opened_once_and_a_plan_without_a_disk_begins_none(
    begun: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = load_simulator(made / "noisy.py")
    with monkeypatch.context() as patched:
        patched.setattr(Store, "__init__", lambda *_: pytest.fail("opened again"))
        work.work(begun, simulator, progress=False)
    assert not begun.missing()
    monkeypatch.setattr(LocalFolder, "path", lambda *_: None)
    with pytest.raises(ValueError, match="is on no disk, where workers"):
        plan(simulator, begun.path.parent / "remote", ROWS)
    with pytest.raises(ValueError, match="is on no disk, where a cluster"):
        simulate(simulator, begun.path.parent / "remote", ROWS, engine=Cluster("tcp://nowhere:1"), progress=False)
    with pytest.raises(ValueError, match="is on no disk, where SLURM"):
        simulate(simulator, begun.path.parent / "remote", ROWS, engine=SlurmArray(), progress=False)
    assert not (begun.path.parent / "remote").exists()
