"""One contract for every engine: whatever dies, hangs, tears or fills up, the store is that of one process.

An engine is one more line of `ENGINES`, and of `FORGIVING` if a simulator may kill its process there.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import call
from slurms import pretended

from sciinf.campaigns import campaign, slurm_array, workers
from sciinf.campaigns.block import draw_theta, give_up, run_block
from sciinf.campaigns.cluster import Cluster
from sciinf.campaigns.simulation import repair, simulate
from sciinf.campaigns.slurm_array import SlurmArray
from sciinf.campaigns.store import Store
from sciinf.campaigns.workers import Here, Workers
from sciinf.core import Status, load_simulator

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
        if first in HANG:
            ctypes.PyDLL(None).sleep(3600)  # and keeps Python from running meanwhile
        once = Path(ONCE.get(first, "/"))
        if not once.exists():
            once.touch()
            os._exit(0)
        time.sleep(0.1 if SLOW.exists() else 0.0)
        z = torch.randn(len(theta), 3, generator=generator)
        return {"v": theta[:, :1] + z, "n": torch.poisson(theta[:, 1], generator=generator)}


simulator = Noisy()
"""

BESIDE = """
import sys
from sciinf import load_simulator, simulate
simulate(load_simulator(sys.argv[1]), sys.argv[2], int(sys.argv[3]), progress=False)
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
    "slurm": lambda request: request.getfixturevalue("slurm"),
}
FORGIVING = ["workers", "cluster"]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """An array of two jobs, by programs that stand for SLURM's."""
    monkeypatch.setenv("PATH", str(pretended(tmp_path / "slurm")), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(slurm_array, "LOOK", 0.5)
    return SlurmArray("jobs=2")


@pytest.fixture
def engine(request):
    return ENGINES[request.param](request)


each = [pytest.param(name, marks=[pytest.mark.long] * (name == "slurm")) for name in ENGINES]  # it starts many jobs
every = pytest.mark.parametrize("engine", each, indirect=True)
forgiving = pytest.mark.parametrize("engine", FORGIVING, indirect=True)


def source(folder: Path, *, poison=(), hang=(), once=()) -> Path:
    """A simulator's file: which blocks, by their first parameter, kill, hang, or leave once."""
    file = folder / "noisy.py"
    settings = f"POISON, HANG, ONCE = {list(poison)!r}, {list(hang)!r}, {dict(once)!r}\n"
    file.write_text(SIMULATOR.replace("SLOW", f"Path({str(folder / 'slow')!r})") + settings)
    return file


def accounted(store: Store, rows: int = ROWS) -> None:
    """Every row is there once, and every file is what was acknowledged."""
    assert (len(store), store.missing(), store.damaged()) == (rows, [], [])
    assert sum(store.counts.values()) == rows
    left = [file.name for file in store.path.rglob("*") if re.match(r"claims-|\..*\.tmp$", file.name)]
    assert not left, "claims and unfinished files are removed"


@pytest.mark.slow
@forgiving
def test_the_block_at_work_pays_and_no_other(engine, tmp_path, monkeypatch):
    """One block always kills its worker, one always hangs, one ends its worker once: all others are as they would be.

    At first a block is given up at once, so that one which paid for others, because it waited beside them, would be.
    """
    monkeypatch.setattr(campaign, "TRIES", 1)
    monkeypatch.setattr(workers, "_TICK", 0.3)
    plan = Store.create(tmp_path / "plan", load_simulator(source(tmp_path)), seed=0, block=BLOCK, rows=ROWS + 50)
    first = [f"{float(draw_theta(plan, k)[0, 0]):.9g}" for k in range(plan.blocks)]
    how = {"poison": [first[2]], "hang": [first[4]], "once": {first[12]: str(tmp_path / "left")}}
    simulator = load_simulator(source(tmp_path, **how))
    # the limit is far above what a worker needs to start on a loaded machine
    with pytest.warns(UserWarning, match=r"50 of 300 .*\(25 raised, 25 timed out\)"):
        store = simulate(simulator, tmp_path / "s", ROWS, timeout=4.0, progress=False, engine=engine)
    accounted(store)
    assert not (tmp_path / "left").exists()
    monkeypatch.setattr(campaign, "TRIES", 2)
    with pytest.warns(UserWarning, match=r"50 of 350 .*\(25 raised, 25 timed out\)"):
        store = simulate(simulator, tmp_path / "s", ROWS + 50, progress=False, engine=engine)
    accounted(store, ROWS + 50)
    assert (tmp_path / "left").exists()
    status = {k: set(store.read(k)[1].status.tolist()) for k in range(store.blocks)}
    bad = {2: Status.RAISED, 4: Status.TIMED_OUT}
    assert status == {k: {bad.get(k, Status.OK)} for k in range(store.blocks)}
    assert re.search("quarantined after 1 tries: .*(ended without a word|killed by SIGKILL)", message(store, 2))
    assert "quarantined after 1 tries: not finished within 4 s" in message(store, 4)
    simulator = load_simulator(source(tmp_path))
    for k in range(plan.blocks):
        if k in bad:
            give_up(plan, k, bad[k], "as said")
        else:
            run_block(simulator, plan, k)
    assert store.digest == plan.digest
    source(tmp_path, **how)
    store.file(4).unlink()
    assert repair(Store(tmp_path / "s"), load_simulator(tmp_path / "noisy.py")) == [4]  # without hanging again
    assert Store(tmp_path / "s").digest == plan.digest


def message(store: Store, index: int) -> str:
    return store.read(index)[1].messages[BLOCK - 1]


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


@pytest.mark.slow
@every
def test_a_hard_day(engine, tmp_path):
    """A full disk, a torn line of a journal, a Ctrl-C, and two campaigns at once, one after the other, on one store."""
    digest = simulate(load_simulator(source(tmp_path)), tmp_path / "expected", ROWS, progress=False).digest
    simulator = load_simulator(source(tmp_path))
    with small_disk(tmp_path / "disk", "120k") as grow:
        path = tmp_path / "disk/s"
        with pytest.raises(OSError, match=r"cannot be written: No space left on device\. Blocks committed so far") as e:
            simulate(simulator, path, ROWS, progress=False, engine=engine)
        assert e.value.errno == 28
        there = Store(path)
        assert 0 < len(there) <= ROWS - 5 * BLOCK, "or nothing is left for the others"
        assert not there.damaged()
        grow("8m")

        journal = max(path.glob("journal/*.jsonl"), key=lambda file: file.stat().st_size)
        journal.write_bytes(journal.read_bytes()[:-60])
        there.file(min(index for index, _ in there.entries())).unlink()

        (tmp_path / "slow").touch()
        threading.Thread(target=interrupt_at, args=(path, len(there) // BLOCK + 1), daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            simulate(simulator, path, ROWS, progress=False, engine=engine)
        assert len(there) < len(Store(path)) < ROWS

        beside = subprocess.Popen([sys.executable, "-c", BESIDE, simulator.source, path, str(ROWS)])
        store = simulate(simulator, path, ROWS, progress=False, engine=engine)
        assert beside.wait() == 0
        accounted(Store(path))
        assert store.digest == Store(path).digest == digest


def interrupt_at(path: Path, blocks: int) -> None:
    """Ctrl-C when so many blocks are there."""
    while len(list(path.rglob("0*.h5"))) < blocks:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_cluster_from_the_command_line(cluster, tmp_path):
    digest = simulate(load_simulator(source(tmp_path)), tmp_path / "expected", 100, progress=False).digest
    where = ["--out", str(tmp_path / "s"), "--scheduler", cluster.address]
    done = call("simulate", tmp_path / "noisy.py", "-n", 100, *where)
    assert (done.code, f"digest {digest}" in done.out) == (0, True)
    journals = [file.name for file in (tmp_path / "s/journal").iterdir()]
    assert not [name for name in journals if name.startswith(f"{platform.node()}-{os.getpid()}")], "others wrote it"
    refused = call("simulate", tmp_path / "noisy.py", "-n", 100, *where, "--workers", 2)
    assert (refused.code, "give one of the two" in refused.error) == (2, True)
