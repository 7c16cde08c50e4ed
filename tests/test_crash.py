"""Kills, full disks and signals: what was acknowledged stays, and going on gives what would have come anyway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.core import load_simulator

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as Unix has them")

SIMULATOR = """
import os, time
import torch
from torch import distributions as td
from sciinf.core import Observable, Prior, Simulator


class Slow(Simulator):
    name = "slow"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"v": Observable((20,))}
    block = 20

    def __call__(self, theta, *, generator):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return {"v": theta + torch.randn(len(theta), 20, generator=generator)}


simulator = Slow()
"""

# One process loads torch and then forks writers, each of which is killed by SIGKILL at a random moment.
KILLER = """
import json, os, random, signal, sys, time
from sciinf.core import load_simulator
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store

source, path, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
simulator = load_simulator(source)
Store.create(path, simulator, seed=0, block=20, rows=rows)
delays, report = random.Random(0), []
for kill in range(8):
    before = len(Store(path))
    writer = os.fork()
    if writer == 0:
        simulate(simulator, path, rows, progress=False)
        os._exit(0)
    journal = os.path.join(path, "journal")
    ours = f"-{writer}-"
    while not any(ours in f for f in os.listdir(journal)) and os.waitpid(writer, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(delays.uniform(0.0, 0.08))
    os.kill(writer, signal.SIGKILL)
    _, status = os.waitpid(writer, 0)
    store = Store(path)
    lines = sum(json.loads(line)["rows"] for f in os.listdir(journal) for line in open(os.path.join(journal, f))
                if line.endswith("}\\n"))
    report.append({"killed": os.WIFSIGNALED(status), "before": before, "rows": len(store), "acknowledged": lines,
                   "damaged": len(store.damaged())})
print(json.dumps(report))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "slow.py"
    file.write_text(SIMULATOR)
    return file


def script(folder: Path, text: str, *arguments: object, pause: float = 0.0) -> subprocess.Popen[str]:
    file = folder / "script.py"
    file.write_text(text)
    command = [sys.executable, str(file), *map(str, arguments)]
    env = {**os.environ, "PAUSE": str(pause), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_eight_kills_lose_nothing_that_was_acknowledged(tmp_path, source):
    rows = 3_200  # 160 blocks, more than eight writers finish before they are killed
    out, err = script(tmp_path, KILLER, source, tmp_path / "s", rows, pause=0.01).communicate(timeout=240)
    assert out, err
    report = json.loads(out)
    assert sum(kill["killed"] for kill in report) == 8
    for kill in report:
        assert kill["damaged"] == 0
        assert kill["rows"] >= kill["acknowledged"]
        assert kill["rows"] > kill["before"]
    assert report[-1]["rows"] < rows
    for left in (tmp_path / "s").rglob(".*.tmp"):
        os.utime(left, (0, 0))
    simulator = load_simulator(source)
    store = simulate(simulator, tmp_path / "s", rows, progress=False)
    assert len(store) == rows
    assert not list((tmp_path / "s").rglob(".*")), "temporary files of killed writers are swept once they are old"
    assert store.digest == simulate(simulator, tmp_path / "whole", rows, progress=False).digest
    # planted fault: the digest tells a store that lost one block and got another's in its place
    theta, outcome = store.read(7)
    store.commit(8, theta, outcome, seconds=0.0)
    assert store.digest != Store(tmp_path / "whole").digest


FULL = """
import errno, resource, sys
from sciinf.core import load_simulator
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store

simulator = load_simulator(sys.argv[1])
digest = simulate(simulator, sys.argv[2] + "-whole", 4000, block=20, progress=False).digest
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
simulate(simulator, sys.argv[2], 100, block=20, progress=False)
for limit in (5000, 1000):  # no room for a shard, or for the journal beyond a few lines
    size = limit if limit == 5000 else 2000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        simulate(simulator, sys.argv[2], 4000, block=20, progress=False)
    except OSError as error:
        assert error.errno in (errno.EFBIG, errno.ENOSPC), error
        assert "cannot be written" in str(error) and "goes on where it was" in str(error), error
    else:
        raise SystemExit("nothing was refused")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    store = Store(sys.argv[2])
    assert len(store) >= 100 and store.damaged() == [], store.damaged()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # shards fit, the journal fills up
try:
    simulate(simulator, sys.argv[2], 4000, block=20, progress=False)
except OSError as error:
    assert error.errno in (errno.EFBIG, errno.ENOSPC), error
else:
    raise SystemExit("the journal was not refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store = Store(sys.argv[2])
assert 100 < len(store) < 4000 and store.damaged() == []
assert simulate(simulator, sys.argv[2], 4000, block=20, progress=False).digest == digest
print("as if nothing had happened")
"""


@pytest.mark.slow
def test_a_full_disk_is_refused_clearly_and_gone_on_from(tmp_path, source):
    out, err = script(tmp_path, FULL, source, tmp_path / "s").communicate(timeout=120)
    assert out.strip() == "as if nothing had happened", err


WORKERS = """
import sys
from sciinf.core import load_simulator
from sciinf.campaigns.simulation import simulate

if __name__ == "__main__":
    try:
        simulate(load_simulator(sys.argv[1]), sys.argv[2], 200, workers=2, progress=False)
    except KeyboardInterrupt:
        raise SystemExit(130)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, source, kind):
    # each block sleeps for ten minutes: whoever waits for a block in flight fails this test
    process = script(tmp_path, WORKERS, source, tmp_path / "s", pause=600)
    deadline = time.monotonic() + 60
    while len(workers := sleeping_children(process.pid)) < 2:
        assert time.monotonic() < deadline, "the workers did not start"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(kind)
    code = process.wait(timeout=30)
    assert code == (130 if kind == signal.SIGTERM else -signal.SIGKILL)
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline + 30, "orphans are left"
        time.sleep(0.05)
    store = Store(tmp_path / "s")
    assert (len(store), store.damaged()) == (0, [])


def sleeping_children(parent: int) -> list[int]:
    """Worker processes in their own process group, which they make just before they load the simulator."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[2] == folder.name:
            found.append(int(folder.name))
    return found


INTERRUPTED = """
import sys
from sciinf.core import load_simulator
from sciinf.campaigns.simulation import simulate

try:
    print("ready", flush=True)
    simulate(load_simulator(sys.argv[1]), sys.argv[2], 100_000, progress=False)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_signals_in_one_process(tmp_path, source, kind):
    process = script(tmp_path, INTERRUPTED, source, tmp_path / "s", pause=0.01)
    while not list((tmp_path / "s/journal").glob("*.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(kind)
    assert process.wait(timeout=30) == 130, process.communicate()[1]
    store = Store(tmp_path / "s")
    assert store.damaged() == []
    assert 0 < len(store) < 100_000
    assert not list((tmp_path / "s").rglob(".*"))
    assert torch.isfinite(store.load().x["v"]).all()


TOGETHER = """
import os, sys
from sciinf.core import load_simulator
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store

simulator, writers = load_simulator(sys.argv[1]), []
for rows in (2000, 2000, 1990):
    writer = os.fork()
    if writer == 0:
        simulate(simulator, sys.argv[2], rows, progress=False)
        os._exit(0)
    writers.append(writer)
codes = [os.waitpid(writer, 0)[1] for writer in writers]
store = simulate(simulator, sys.argv[2], 2000, progress=False)
whole = simulate(simulator, sys.argv[2] + "-whole", 2000, progress=False)
print(codes, len(store), store.damaged(), store.missing(), store.digest == whole.digest)
"""


@pytest.mark.slow
def test_processes_that_write_the_same_store_at_once(tmp_path, source):
    out, err = script(tmp_path, TOGETHER, source, tmp_path / "s").communicate(timeout=120)
    assert out.strip() == "[0, 0, 0] 2000 [] [] True", err
