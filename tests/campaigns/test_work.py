"""Workers on one store with nothing between them: every block once, whoever is stopped or killed, and when."""

from __future__ import annotations

import functools
import multiprocessing
import operator
import os
import signal
import threading
import time
import warnings
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from sciinf.campaigns import work
from sciinf.campaigns.block import draw_theta, run_block
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.campaigns.work import Hints, checked_share, note_of, noted, ordered, plan
from sciinf.core import Status, load_simulator
from sciinf.core.files import read_json, write_json

SIMULATOR = """
import ctypes, os, signal, time
import torch
from torch import distributions as td
from sciinf.core import Observable, Prior, Simulator


class Noisy(Simulator):
    name = "noisy"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = 5

    def __call__(self, theta, *, generator):
        first = f"{float(theta[0, 0]):.9g}"
        if first == os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        if first == os.environ.get("HANG"):
            ctypes.PyDLL(None).sleep(3600)  # holds Python's lock
        if first == os.environ.get("LOCK"):
            ctypes.PyDLL(None).sleep(600)
        time.sleep(float(os.environ.get("NAP", 0)))
        return {"v": theta + torch.randn(len(theta), 3, generator=generator)}


simulator = Noisy()
"""
ROWS, BLOCKS = 60, 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulator's file, and beside it the store of a single process."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "noisy.py").write_text(SIMULATOR)
    simulate(load_simulator(folder / "noisy.py"), folder / "one", ROWS, seed=3, progress=False)
    multiprocessing.set_forkserver_preload(["sciinf.campaigns.work"])
    return folder


@pytest.fixture
def begun(made: Path, tmp_path: Path) -> Store:
    """A store in which nothing is simulated yet."""
    return plan(load_simulator(made / "noisy.py"), tmp_path / "store", ROWS, seed=3)


def worker(store: Store, made: Path, *, environment: dict[str, str] | None = None, **how: Any) -> ForkServerProcess:
    """A worker in a process of its own."""
    process = multiprocessing.get_context("forkserver").Process(
        target=run, args=(str(store.path), str(made / "noisy.py"), environment or {}, how)
    )
    process.start()
    return process


def run(store: str, simulator: str, environment: dict[str, str], how: dict[str, Any]) -> None:
    """What a worker's process does."""
    os.environ.update(environment)
    try:
        work.work(Store(store), load_simulator(simulator), progress=False, **how)
    except KeyboardInterrupt:
        os._exit(130)


def first_of(store: Store, index: int) -> str:
    return f"{float(draw_theta(store, index)[0, 0]):.9g}"


def hinted(store: Store) -> list[str]:
    return sorted(file.name for file in (store.path / "working").glob("*"))


def wait_for(true: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def whole(store: Store, made: Path) -> bool:
    """Nothing missing, damaged or left behind, and the bits of a single process."""
    found = Store(store.path)
    assert not found.missing()
    assert not found.damaged()
    assert hinted(store) == []
    return found.digest == Store(made / "one").digest


@pytest.mark.parametrize("of", [1, 5, 12, 40])
def test_shares_cover_all_blocks_and_each_worker_takes_all_in_the_end(of: int) -> None:
    own = [ordered(range(BLOCKS), i, of) for i in range(of)]
    assert all(sorted(blocks) == list(range(BLOCKS)) for blocks in own)
    firsts = [[k for k in blocks if k % of == i] for i, blocks in enumerate(own)]
    assert all(blocks[: len(first)] == first for blocks, first in zip(own, firsts, strict=True))
    assert sorted(functools.reduce(operator.iadd, firsts, [])) == list(range(BLOCKS))
    assert {checked_share((i, of)) for i in range(of)} == {checked_share(f"{i}/{of}") for i in range(1, of + 1)}


@pytest.mark.parametrize(
    "share", ["3", "4/3", "1/0", "-1/4", "a/b", "1/2/3", (1, True), (0.5, 2), None, "9" * 99 + "/1"]
)
def test_a_share_that_makes_no_sense_is_refused_with_the_way_out(share: Any) -> None:
    with pytest.raises(ValueError, match="worker I of N"):
        checked_share(share)


def test_one_worker_alone_makes_the_store_of_a_single_process(begun: Store, made: Path) -> None:
    found = work.work(begun, load_simulator(made / "noisy.py"), share=(1, 3), progress=False)
    assert [entry.block for entry in found] == ordered(range(BLOCKS), 1, 3)
    assert whole(begun, made)
    assert not (begun.path / "working").exists()


def test_two_at_once_do_each_block_once(begun: Store, made: Path) -> None:
    two = [worker(begun, made, environment={"NAP": "0.05"}, share=(i, 2)) for i in range(2)]
    for process in two:
        process.join()
        assert process.exitcode == 0
    assert whole(begun, made)
    store = Store(begun.path)
    assert len(list((begun.path / "journal").iterdir())) == 2
    assert sum(len(store.history(k)) for k in range(BLOCKS)) <= BLOCKS + 1  # a block that both began at one moment


def test_sigterm_leaves_nothing_torn_and_blames_no_block(begun: Store, made: Path) -> None:
    process = worker(begun, made, environment={"NAP": "0.1"})
    wait_for(lambda: Store(begun.path).missing() != list(range(BLOCKS)))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    store = Store(begun.path)
    assert process.exitcode == 130
    assert hinted(begun) == []
    assert 0 < len(store.missing()) < BLOCKS
    assert not store.damaged()
    work.work(store, load_simulator(made / "noisy.py"), progress=False)
    assert whole(begun, made)


def test_sigterm_while_a_simulator_holds_pythons_lock_blames_no_block(begun: Store, made: Path) -> None:
    process = worker(begun, made, environment={"LOCK": first_of(begun, 0)})
    wait_for(lambda: hinted(begun) != [])
    time.sleep(0.3)  # its simulator sleeps with the lock
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    wait_for(lambda: hinted(begun) == [])
    process.kill()
    process.join()
    time.sleep(0.2)
    assert hinted(begun) == []


def test_killed_it_goes_on_and_the_block_in_hand_comes_last(begun: Store, made: Path) -> None:
    process = worker(begun, made, environment={"NAP": "5"})
    wait_for(lambda: hinted(begun) != [])
    process.kill()
    process.join()
    wait_for(lambda: all(name.endswith(".died") for name in hinted(begun)))
    assert [name.split(".")[0] for name in hinted(begun)] == ["0"]  # the watcher says at once that it is dead
    found = work.work(begun, load_simulator(made / "noisy.py"), progress=False)
    assert [entry.block for entry in found] == [*range(1, BLOCKS), 0]
    assert whole(begun, made)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "status"), [("KILL", Status.RAISED), ("HANG", Status.TIMED_OUT)])
def test_a_block_that_ends_its_process_is_given_up_after_three(
    what: str, status: Status, begun: Store, made: Path
) -> None:
    cursed, how = {what: first_of(begun, 4)}, {"timeout": 1.5 if what == "HANG" else None}
    for tries in range(1, 4):
        process = worker(begun, made, environment=cursed, share=(tries, 3), **how)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if what == "KILL" else 1)
        wait_for(lambda: all(name.endswith((".died", ".late")) for name in hinted(begun)))
        assert len(hinted(begun)) == tries
        assert tries == 1 or Store(begun.path).missing() == [4]
    process = worker(begun, made, environment=cursed, **how)
    process.join()
    store = Store(begun.path)
    assert process.exitcode == 0
    assert not store.missing()
    assert hinted(begun) == []
    assert store.counts[status] == 5
    assert store.counts[Status.OK] == ROWS - 5
    assert "after 3 tries" in store.failures()[0].message


@pytest.mark.slow
def test_a_block_that_another_has_in_hand_comes_last_and_is_done_when_that_one_is_dead(
    begun: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "FRESH", 1.0)
    monkeypatch.setattr(work, "LOOK", 0.1)
    (begun.path / "working").mkdir()
    (begun.path / "working" / "0.other-1.aa").touch()
    started = time.monotonic()
    found = work.work(begun, load_simulator(made / "noisy.py"), progress=False)
    assert time.monotonic() - started > 0.9
    assert [entry.block for entry in found] == [*range(1, BLOCKS), 0]
    assert whole(begun, made)


@pytest.mark.parametrize("dead", [2, 3])
def test_three_hints_that_nobody_has_touched_for_a_minute_are_three_tries(dead: int, begun: Store, made: Path) -> None:
    (begun.path / "working").mkdir()
    for number in range(dead):
        hint = begun.path / "working" / f"4.other-{number}.aa"
        hint.touch()
        os.utime(hint, (time.time() - 61, time.time() - 61))
    work.work(begun, load_simulator(made / "noisy.py"), progress=False)
    store = Store(begun.path)
    assert hinted(begun) == []
    assert store.counts[Status.RAISED] == (5 if dead == 3 else 0)
    assert not store.missing()


@pytest.mark.slow
def test_a_block_that_another_commits_meanwhile_is_waited_for_and_not_done_again(
    begun: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LOOK", 0.1)
    simulator, other = load_simulator(made / "noisy.py"), Store(begun.path)
    with_hints = Hints(begun.path, None)
    assert with_hints.begin(7)

    def commit() -> None:
        run_block(simulator, other, 7)
        with_hints.forget(7)

    later = threading.Timer(1.0, commit)
    later.start()
    found = work.work(begun, simulator, progress=False)
    later.join()
    with_hints.close()
    assert sorted(entry.block for entry in found) == [k for k in range(BLOCKS) if k != 7]
    assert whole(begun, made)


@pytest.mark.slow
def test_a_hint_is_touched_while_a_simulator_holds_pythons_lock(
    begun: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "BEAT", 0.2)
    monkeypatch.setenv("LOCK", "1")
    import ctypes

    own = Hints(begun.path, None)
    assert own.begin(3)
    (file,) = (begun.path / "working").iterdir()
    before = file.stat().st_mtime
    ctypes.PyDLL(None).sleep(2)
    assert file.stat().st_mtime - before > 0.5
    own.close()
    assert not (begun.path / "working").exists()


def test_a_simulator_that_changed_is_refused(begun: Store, made: Path, tmp_path: Path) -> None:
    changed = tmp_path / "noisy.py"
    changed.write_text(SIMULATOR.replace("theta + torch", "theta - torch"))
    with pytest.raises(ValueError, match="changed"):
        work.work(begun, load_simulator(changed), progress=False)
    assert len(Store(begun.path)) == 0


def test_a_simulator_most_of_whose_rows_fail_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "fails.py"
    file.write_text(SIMULATOR.replace("first = ", "raise RuntimeError('no solver')\n        first = "))
    store = plan(load_simulator(file), tmp_path / "store", 1_000)
    with pytest.raises(ValueError, match="no solver"):
        work.work(store, load_simulator(file), progress=False)
    assert 0 < len(Store(store.path)) < 200


def test_the_note_of_another_user_runs_no_code(begun: Store, made: Path, tmp_path: Path) -> None:
    assert noted(begun) == {
        "source": str(made / "noisy.py"), "device": "cpu", "timeout": None, "mark": noted(begun)["mark"]
    }  # fmt: skip
    write_json(begun.path / work.NOTE, {**read_json(begun.path / work.NOTE), "source": str(tmp_path / "evil.py")})
    with pytest.raises(ValueError, match="not written by you"):
        noted(begun)
    (begun.path / work.NOTE).unlink()
    with pytest.raises(ValueError, match="--simulator"):
        noted(begun)
    note_of(begun, load_simulator(made / "noisy.py"), device="cpu", timeout=2.0)
    assert noted(begun)["timeout"] == 2.0


def test_a_plan_draws_from_the_proposal_so_that_workers_need_not_know_it(made: Path, tmp_path: Path) -> None:
    from sciinf.core.prior import Prior
    from sciinf.core.proposal import Proposal

    class Narrow(Proposal):
        def sample(self, n: int, *, generator: Any) -> Any:
            return 0.1 * simulator.prior.sample(n, generator=generator)

        def to_json(self) -> dict[str, Any]:
            return {"narrow": 0.1}

    simulator = load_simulator(made / "noisy.py")
    assert isinstance(simulator.prior, Prior)
    store = plan(simulator, tmp_path / "store", 20, proposal=Narrow())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        work.work(Store(store.path), simulator, progress=False)
    straight = simulate(simulator, tmp_path / "straight", 20, proposal=Narrow(), progress=False)
    assert Store(store.path).digest == straight.digest


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_worker_ends_though_a_process_that_its_simulator_forked_lives_on(begun: Store) -> None:
    own = Hints(begun.path, None)
    assert own.begin(3)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        started = time.monotonic()
        own.close()
        assert time.monotonic() - started < 2.5
        assert hinted(begun) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.slow
def test_a_connection_that_is_cut_is_not_the_fault_of_a_block(begun: Store, made: Path) -> None:
    process = worker(begun, made, environment={"NAP": "5"})
    wait_for(lambda: hinted(begun) != [])
    os.kill(process.pid or 0, signal.SIGHUP)
    process.join()
    assert process.exitcode == 130
    assert hinted(begun) == []
