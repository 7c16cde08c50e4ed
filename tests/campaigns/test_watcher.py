"""What a simulator has started ends with its worker, however that one ends: the process table says so.

A simulator starts a program with a child of its own, the same in a session of its own, and a forked process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sciinf.campaigns import heartbeat
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.cluster import Cluster
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.campaigns.watcher import MARK, Watcher
from sciinf.campaigns.work import Hints, plan, work
from sciinf.campaigns.workers import Workers
from sciinf.core import load_simulator
from sciinf.simulators.wrappers.contained_process import Containment

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="there is no /proc")
SIMULATOR = """
import ctypes, os, subprocess, time
from pathlib import Path
import torch
from sciinf import Normal, Observable, Prior, Simulator

PROGRAM = ["sh", "-c", "sleep NAP; exit 0"]


class Starts(Simulator):
    name = "starts"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable(())}
    block = 5

    def __call__(self, theta, *, generator):
        first = Path(__file__).with_name("first")
        try:
            first.touch(exist_ok=False)
        except FileExistsError:
            return {"v": theta[:, 0]}
        if (fork := os.fork()) == 0:
            time.sleep(600)
        subprocess.Popen(PROGRAM)
        subprocess.Popen(PROGRAM, start_new_session=True)
        time.sleep(0.3)
        Path(__file__).with_name("writing").write_text(f"{os.getpid()} {fork}")
        Path(__file__).with_name("writing").rename(Path(__file__).with_name("started"))
        if os.environ.get("LEAVE"):
            os._exit(0)
        if os.environ.get("LOCK"):
            ctypes.PyDLL(None).sleep(600)
        time.sleep(600)


simulator = Starts()
"""


NAP = 10**6 + os.getpid()  # which no other test on this machine asks for


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    """A simulator's file; whatever of it is left in the end is killed."""
    multiprocessing.set_forkserver_preload(["sciinf.campaigns.work"])
    (tmp_path / "starts.py").write_text(SIMULATOR.replace("NAP", str(NAP)))
    yield tmp_path / "starts.py"
    for pid in left(tmp_path):
        os.kill(pid, signal.SIGKILL)


def left(folder: Path) -> list[int]:
    """The programs, their children, and the forked process, as far as they run."""
    file = folder / "started"
    fork = file.read_text().split()[1] if file.is_file() else ""
    found = list[int]()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and (str(NAP).encode() in words or name == fork):
            found.append(int(name))
    return found


def waited(true: Callable[[], object], seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def started(made: Path) -> int:
    """The process in which the simulator has started its programs."""
    file = made.with_name("started")
    assert waited(file.is_file)
    return int(file.read_text().split()[0])


def run(store: str, simulator: str, environment: dict[str, str], timeout: float | None) -> None:
    os.environ.update(environment)
    with suppress(KeyboardInterrupt):
        work(Store(store), load_simulator(simulator), progress=False, timeout=timeout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sigterm", "sigkill", "sigterm to one that holds the lock, then sigkill", "deadline"])
def test_programs_end_with_a_worker_of_a_queue(kind: str, made: Path, tmp_path: Path) -> None:
    store = plan(load_simulator(made), tmp_path / "store", 5)
    given = str(store.path), str(made), {"LOCK": "1"} if "lock" in kind else {}, 2.0 if kind == "deadline" else None
    worker = multiprocessing.get_context("forkserver").Process(target=run, args=given)
    worker.start()
    assert started(made) == worker.pid
    if kind != "deadline":
        assert len(left(tmp_path)) == 5  # two shells, what they run, and the fork
    if kind.startswith("sigterm"):
        worker.terminate()
    if kind.endswith("sigkill"):
        time.sleep(0.3)
        worker.kill()
    worker.join(30)
    assert worker.exitcode is not None
    assert waited(lambda: not left(tmp_path), 5.0)


long = pytest.mark.long  # processes that load torch


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sigkill", pytest.param("deadline", marks=long), pytest.param("leave", marks=long)])
def test_programs_end_with_a_worker_process(
    kind: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "leave":
        monkeypatch.setenv("LEAVE", "1")
    monkeypatch.setenv("LOCK", "1")  # so that no handler of SIGTERM runs
    simulator = load_simulator(made)
    store = plan(simulator, tmp_path / "store", 10)
    timeout = 3.0 if kind == "deadline" else None
    campaign = Campaign(store, simulator, store.missing(), device="cpu", timeout=timeout)
    with closing(Workers(1).run(campaign)) as entries:
        if kind == "sigkill":
            threading.Thread(target=kill_when_started, args=(made,), daemon=True).start()
        assert {entry.block for entry in entries} == {0, 1}
        assert made.with_name("started").is_file()
        assert waited(lambda: not left(tmp_path), 5.0)  # while the campaign has not ended


def kill_when_started(made: Path) -> None:
    os.kill(started(made), signal.SIGKILL)


@long
def test_a_worker_that_holds_the_lock_ends_with_its_parent_and_so_do_programs(made: Path, tmp_path: Path) -> None:
    given = str(made), str(tmp_path / "store"), {"LOCK": "1"}
    parent = multiprocessing.get_context("forkserver").Process(target=run_workers, args=given)
    parent.start()
    worker = Path(f"/proc/{started(made)}/stat")
    assert len(left(tmp_path)) == 5
    parent.kill()
    parent.join()
    assert waited(lambda: not left(tmp_path), 8.0)
    assert not worker.exists() or worker.read_text().rpartition(")")[2].split()[0] == "Z"


def run_workers(simulator: str, store: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    simulate(load_simulator(simulator), store, 10, workers=2, progress=False)


@long
def test_programs_end_with_a_worker_of_a_cluster(made: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    simulator = load_simulator(made)
    store = plan(simulator, tmp_path / "store", 10)
    how = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**how, silence_logs=60) as running:
        campaign = Campaign(store, simulator, store.missing(), device="cpu", timeout=3.0)
        with closing(Cluster(running.scheduler_address).run(campaign)) as entries:
            assert {entry.block for entry in entries} == {0, 1}
            assert made.with_name("started").is_file()
            assert waited(lambda: not left(tmp_path), 5.0)


def test_what_is_started_between_blocks_or_after_the_work_carries_no_mark(tmp_path: Path) -> None:
    own = Hints(tmp_path, None)
    assert own.begin(0)
    inside = os.environ[MARK]
    inner = Watcher()  # as of a worker that a simulator has started
    inner.begin()
    assert os.environ[MARK] not in ("", inside)
    inner.close()
    assert os.environ[MARK] == inside
    with Containment() as programs:  # or the watcher would end the guard before it has ended its programs
        assert programs._guard is not None
        environment = Path(f"/proc/{programs._guard.pid}/environ")
        assert waited(lambda: b"/bin/sh" in environment.with_name("cmdline").read_bytes())
        assert MARK.encode() not in environment.read_bytes()
    own.forget(0)
    assert MARK not in os.environ
    own.close()


def test_a_worker_that_has_done_all_lets_programs_live(made: Path, tmp_path: Path) -> None:
    own = Hints(tmp_path / "store", None)
    assert own.begin(0)
    program = subprocess.Popen(["sleep", str(NAP)])
    own.forget(0)
    own.close()
    time.sleep(0.2)
    assert program.poll() is None
    program.kill()
    program.wait()


def test_a_signal_to_a_forked_process_is_none_to_the_worker(tmp_path: Path) -> None:
    """Its number goes through the pipe that it has from the worker, whose programs would end in the end."""
    own = Hints(tmp_path / "store", None)
    assert own.begin(0)
    program = subprocess.Popen(["sleep", str(NAP)])
    if (fork := os.fork()) == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        (tmp_path / "ready").touch()
        time.sleep(60)
        os._exit(1)
    assert waited((tmp_path / "ready").exists)
    os.kill(fork, signal.SIGTERM)
    assert os.waitpid(fork, 0)[1] == 0
    time.sleep(0.2)
    assert list(own.folder.glob("0.*"))
    own.forget(0)
    own.close()
    time.sleep(0.2)
    assert program.poll() is None
    program.kill()
    program.wait()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False])
def test_a_process_forked_between_blocks_is_not_of_the_simulator(busy: bool, tmp_path: Path) -> None:
    if (worker := os.fork()) == 0:
        own = Watcher()
        own.begin()
        if not busy:
            own.rest()
        if (fork := os.fork()) == 0:
            time.sleep(600)
        (tmp_path / "writing").write_text(str(fork))
        (tmp_path / "writing").rename(tmp_path / "fork")
        time.sleep(600)
    assert waited((tmp_path / "fork").exists)
    fork = int((tmp_path / "fork").read_text())
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    ended = waited(lambda: not runs(fork), 10.0 if busy else 2.5)
    assert ended == busy
    if not ended:
        os.kill(fork, signal.SIGKILL)


def runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


SWEEP = """
import os, sys
sys.path.insert(0, sys.argv[1])
import heartbeat
real = os.readlink
if sys.argv[2] == "of a host":
    os.readlink = lambda path: "7" if path == "/proc/self" else real(path)
if sys.argv[2] == "old":
    del os.pidfd_open
print(heartbeat._parent_of(os.getpid()))
heartbeat.sweep(b"SCIINF_WORKER=swept", 0)
"""


@pytest.mark.parametrize("proc", ["own", "old", "of a host"])
def test_numbers_of_another_process_table_are_not_killed(proc: str) -> None:
    """A container without its own /proc shows the numbers of its host there, which are other processes' inside."""
    mine, other = (subprocess.Popen(["sleep", str(NAP)], env={MARK: mark}) for mark in ("swept", "another"))
    words = [sys.executable, "-I", "-S", "-c", SWEEP, str(Path(heartbeat.__file__).parent), proc]
    said = subprocess.run(words, input="", capture_output=True, text=True, check=True).stdout.strip()
    assert said == ("None" if proc == "of a host" else str(os.getpid()))
    time.sleep(0.1)
    assert (mine.poll() is None) == (proc == "of a host")
    assert other.poll() is None
    for program in (mine, other):
        program.kill()
        program.wait()
