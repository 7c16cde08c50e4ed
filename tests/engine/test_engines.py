"""One contract for every engine: whatever dies, hangs, tears or fills up, the store is that of one process.

An engine is one more line of `ENGINES`, and of `FORGIVING` if a simulator may kill its process there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from sciinf.core import Status, load_simulator
from sciinf.engine import campaign
from sciinf.engine.block import draw_theta, give_up, run_block
from sciinf.engine.cluster import Cluster
from sciinf.engine.workers import Here, Workers
from sciinf.simulation import simulate
from sciinf.store import Store

ROWS, BLOCK = 300, 25
SIMULATOR = """
import ctypes, os, signal, time
from pathlib import Path

import torch
from torch import distributions as td
from sciinf.core import Observable, Prior, Simulator


class Noisy(Simulator):
    name = "noisy"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Gamma(2.0, 1.0))
    observables = {"v": Observable((3,)), "n": Observable((), dtype="int64")}
    block = 25

    def __call__(self, theta, *, generator):
        first = f"{float(theta[0, 0]):.9g}"
        if first in POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        once = Path(ONCE.get(first, "/"))
        if not once.exists():
            once.touch()
            if once.name == "leave":
                os._exit(0)
            ctypes.PyDLL(None).sleep(3600)  # and keeps Python from running meanwhile
        time.sleep(SLOW)
        z = torch.randn(len(theta), 3, generator=generator)
        return {"v": theta[:, :1] + z, "n": torch.poisson(theta[:, 1], generator=generator)}


simulator = Noisy()
"""


@pytest.fixture(scope="module")
def cluster():
    """Two workers of two threads, so that some blocks wait in a process where another one runs."""
    distributed = pytest.importorskip("distributed")
    how = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**how, resources={"programs": 2}, silence_logs=60) as running:
        yield Cluster(running.scheduler_address, resources={"programs": 1})


ENGINES = {
    "here": lambda request: Here(),
    "workers": lambda request: Workers(2),
    "cluster": lambda request: request.getfixturevalue("cluster"),
}
FORGIVING = ["workers", "cluster"]


@pytest.fixture
def engine(request):
    return ENGINES[request.param](request)


every = pytest.mark.parametrize("engine", ENGINES, indirect=True)
forgiving = pytest.mark.parametrize("engine", FORGIVING, indirect=True)


def source(folder: Path, *, poison: list[str] = (), once: dict[str, str] = {}, slow: float = 0.0) -> Path:
    file = folder / "noisy.py"
    file.write_text(f"POISON, ONCE, SLOW = {list(poison)!r}, {once!r}, {slow}\n" + SIMULATOR)
    return file


def expected(folder: Path, rows: int = ROWS) -> Store:
    """What one process makes that nothing happens to."""
    return simulate(load_simulator(source(folder)), folder / "expected", rows, progress=False)


def quiet(*given, **how) -> Store:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return simulate(*given, progress=False, **how)


def accounted(store: Store, rows: int = ROWS) -> None:
    """Every row is there once, and every file is what was acknowledged."""
    assert (len(store), store.missing(), store.damaged()) == (rows, [], [])
    assert sum(store.counts.values()) == rows
    left = [file.name for file in store.path.rglob("*") if re.match(r"claims-|\..*\.tmp$", file.name)]
    assert not left, "claims and unfinished files are removed"


@forgiving
def test_the_block_at_work_pays_and_no_other(engine, tmp_path, monkeypatch):
    """One block kills its worker always, one ends it once, one hangs once: all else is as if nothing had been."""
    monkeypatch.setattr(campaign, "TRIES", 2)
    plan = expected(tmp_path)
    first = [f"{float(draw_theta(plan, k)[0, 0]):.9g}" for k in range(plan.blocks)]
    once = {first[5]: str(tmp_path / "leave"), first[8]: str(tmp_path / "hang")}
    simulator = load_simulator(source(tmp_path, poison=[first[2]], once=once))
    store = quiet(simulator, tmp_path / "s", ROWS, timeout=4.0, engine=engine)
    accounted(store)
    assert (tmp_path / "leave").exists()
    assert (tmp_path / "hang").exists()
    status = {k: set(store.read(k)[1].status.tolist()) for k in range(store.blocks)}
    assert status == {k: {Status.RAISED if k == 2 else Status.OK} for k in range(store.blocks)}
    assert "quarantined after 2 tries: " in store.read(2)[1].messages[0]
    one = Store.create(tmp_path / "one", load_simulator(source(tmp_path)), seed=0, block=BLOCK, rows=ROWS)
    for k in range(one.blocks):
        if k == 2:
            give_up(one, k, Status.RAISED, "it kills")
        else:
            run_block(load_simulator(source(tmp_path)), one, k)
    assert store.digest == one.digest


@forgiving
def test_a_block_that_hangs_always_is_given_up(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "TRIES", 1)
    plan = Store.create(tmp_path / "plan", load_simulator(source(tmp_path)), seed=0, block=BLOCK, rows=100)
    first = f"{float(draw_theta(plan, 1)[0, 0]):.9g}"
    simulator = load_simulator(source(tmp_path, once={first: str(tmp_path / "never" / "there")}))
    simulator.source.write_text(simulator.source.read_text().replace("once.touch()", "pass"))
    store = quiet(load_simulator(simulator.source), tmp_path / "s", 100, timeout=2.0, engine=engine)
    accounted(store, 100)
    assert store.counts[Status.TIMED_OUT] == BLOCK
    assert "not finished within 2 s" in store.read(1)[1].messages[0]


@every
def test_a_torn_line_of_a_journal_costs_nothing(engine, tmp_path):
    digest = expected(tmp_path).digest
    simulator = load_simulator(source(tmp_path))
    store = simulate(simulator, tmp_path / "s", 150, progress=False)
    journal = max((tmp_path / "s/journal").glob("*.jsonl"), key=lambda file: file.stat().st_size)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-60])
    store.file(3).unlink()
    store = simulate(simulator, tmp_path / "s", ROWS, progress=False, engine=engine)
    accounted(Store(tmp_path / "s"))
    assert store.digest == digest


@contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@every
def test_a_full_disk_is_said_and_loses_nothing(engine, tmp_path):
    digest = expected(tmp_path).digest
    simulator = load_simulator(source(tmp_path))
    with small_disk(tmp_path / "disk", "120k") as grow:
        with pytest.raises(OSError, match=r"cannot be written: No space left on device\. Blocks committed so far") as e:
            simulate(simulator, tmp_path / "disk/s", ROWS, progress=False, engine=engine)
        assert e.value.errno == 28
        there = Store(tmp_path / "disk/s")
        assert 0 < len(there) < ROWS
        assert not there.damaged()
        grow("8m")
        store = simulate(simulator, tmp_path / "disk/s", ROWS, progress=False, engine=engine)
        accounted(store)
        assert store.digest == digest


@every
def test_two_campaigns_on_one_store_at_once(engine, tmp_path):
    digest = expected(tmp_path).digest
    simulator, ended = load_simulator(source(tmp_path, slow=0.02)), []

    def other():
        ended.append(simulate(load_simulator(simulator.source), tmp_path / "s", ROWS, progress=False).digest)

    beside = threading.Thread(target=other)
    beside.start()
    store = simulate(simulator, tmp_path / "s", ROWS, progress=False, engine=engine)
    beside.join()
    accounted(Store(tmp_path / "s"))
    assert {store.digest, *ended} == {digest}
    assert len(ended) == 1


@every
def test_ctrl_c_in_the_middle_and_on(engine, tmp_path):
    digest = expected(tmp_path).digest
    simulator = load_simulator(source(tmp_path, slow=0.1))

    def interrupt():
        while len(list((tmp_path / "s").rglob("0*.h5"))) < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        simulate(simulator, tmp_path / "s", ROWS, progress=False, engine=engine)
    there = Store(tmp_path / "s")
    assert 3 * BLOCK <= len(there) < ROWS
    store = simulate(simulator, tmp_path / "s", ROWS, progress=False, engine=engine)
    accounted(store)
    assert store.digest == digest
