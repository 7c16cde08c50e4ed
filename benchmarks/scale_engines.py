"""Engines: what workers gain, what a block costs beside the disk, and a Dask cluster that is killed and cut off.

Part "engines": rows of 10 ms, computed, by one worker and by two; blocks of cheap rows beside the rate at which this
disk makes files and lines durable. Part "dask": cheap rows on a cluster of two workers; one of them gets SIGKILL every
few seconds, once something was done since; the link to the scheduler is down for 20 s (its own network namespace and a
veth pair where that is permitted, else the scheduler is stopped by SIGSTOP); the scheduler gets SIGKILL and is started
again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reporting import Rows, check

from sciinf import load_simulator, simulate
from sciinf.campaigns import Store
from sciinf.campaigns.campaign import Engine
from sciinf.campaigns.cluster import Cluster
from sciinf.campaigns.workers import Here, Workers
from sciinf.core.files import write_bytes
from sciinf.core.observable import Status
from sciinf.core.simulator import Simulator

SIMULATOR = """
import time
from pathlib import Path
import torch
from sciinf import Normal, Observable, Prior, Simulator


class Rows(Simulator):
    name = "rows"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = BLOCK

    def __call__(self, theta, *, generator):
        until = time.thread_time() + WORK * len(theta)
        while time.thread_time() < until:
            pass
        if NAP and Path(SLOW).exists():
            time.sleep(NAP)
        return {"v": theta + torch.randn(len(theta), 3, generator=generator)}


simulator = Rows()
"""
NAMESPACE, PORT = "sciinf-scale", 48_917
NEAR, FAR = "10.213.77.1", "10.213.77.2"
CUT = 20.0
BETWEEN = 10  # blocks at least between two kills


def source(folder: Path, block: int, work: float = 0.0, nap: float = 0.0) -> Simulator:
    """A simulator of so many rows a block, CPU seconds a row, and seconds of rest a block while `folder/slow` is."""
    file = folder / f"rows_{block}.py"
    named = {"BLOCK": block, "WORK": work, "NAP": nap, "SLOW": str(folder / "slow")}
    text = SIMULATOR
    for name, value in named.items():
        text = text.replace(name, repr(value))
    file.write_text(text)
    return load_simulator(file)


# --- part engines ---------------------------------------------------------------------------------------------------


def engines(options: Any, folder: Path) -> tuple[Rows, Rows]:
    """What two workers gain, and what blocks cost beside the disk."""
    rows, checks = _gain(options.quick, folder), list[dict[str, Any]]()
    gain = rows[0]["seconds"] / rows[1]["seconds"]
    checks.append(check("one worker's time, in times of two workers', below 1.8 by", 1.8 - gain, 0.0))
    cheap = _beside_the_disk(options.quick, folder)
    checks += [check(f"half of the disk's rate, in rates of {row['engine']}", 0.5 / row["of it"], 1.0) for row in cheap]
    return rows + cheap, checks


def _gain(quick: bool, folder: Path) -> Rows:
    simulator, rows = source(folder, 100, work=0.01), 800 if quick else 4_000
    found = []
    for count in (1, 2):
        busy = os.times()
        seconds = _timed(simulator, folder / f"workers_{count}", rows, Workers(count))
        used = sum(os.times()[:4]) - sum(busy[:4])
        found.append(
            {"engine": f"{count} workers", "rows": rows, "seconds": seconds, "CPU a row [ms]": used / rows * 1e3}
        )
    return found


def _timed(simulator: Simulator, path: Path, rows: int, engine: Engine) -> float:
    """Wall seconds from the first file that is there to the last, for rows but the first tenth."""
    before = set(simulate(simulator, path, rows // 10, progress=False, engine=Here()).path.rglob("0*.h5"))
    simulate(simulator, path, rows, progress=False, engine=engine)
    marks = [file.stat().st_mtime for file in path.rglob("0*.h5") if file not in before]
    return (max(marks) - min(marks)) * rows / (rows - rows // 10 - simulator.block)


def _beside_the_disk(quick: bool, folder: Path) -> Rows:
    blocks, found = 200 if quick else 1_000, list[dict[str, Any]]()
    simulator = source(folder, 500)
    for name, engine in (("here", Here()), ("2 workers", Workers(2))):
        path = folder / f"cheap_{name[0]}"
        simulate(simulator, path, 500, progress=False)
        size = Store(path).file(0).stat().st_size
        disk = _disk(folder / f"disk_{name[0]}", blocks, size)
        rate = blocks / _timed(simulator, path, 500 * blocks, engine)
        found.append({"engine": name, "blocks": blocks, "bytes": size, "disk [1/s]": disk, "blocks [1/s]": rate})
        found[-1]["of it"] = rate / disk
    found[0]["CPU a block [ms]"] = _cpu(simulator, folder / "cheap_cpu", blocks) * 1e3
    return found


def _cpu(simulator: Simulator, path: Path, blocks: int) -> float:
    """CPU seconds of this process for a block, simulated and committed here."""
    simulate(simulator, path, simulator.block * 20, progress=False)  # whatever is loaded or made once
    started = time.process_time()
    simulate(simulator, path, simulator.block * (20 + blocks), progress=False, engine=Here())
    return (time.process_time() - started) / blocks


def _disk(folder: Path, blocks: int, size: int) -> float:
    """Files of so many bytes, each with a line in a journal, made durable one after the other: how many a second."""
    folder.mkdir()
    data, started = os.urandom(size), time.monotonic()
    journal = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for k in range(blocks):
        write_bytes(folder / f"{k}.h5", data)
        os.write(journal, b"x" * 700 + b"\n")
        os.fsync(journal)
    os.close(journal)
    return blocks / (time.monotonic() - started)


# --- part dask ------------------------------------------------------------------------------------------------------


def dask(options: Any, folder: Path) -> tuple[Rows, Rows]:
    """A campaign whose workers are killed, whose scheduler is cut off, and then killed."""
    rows, block = (50_000, 250) if options.quick else (1_000_000, 2_000)
    simulator = source(folder, block, nap=0.4)
    digest = simulate(simulator, folder / "one", rows, progress=False).digest
    (folder / "slow").touch()
    with _link() as (host, cut):
        running = _Running(host, cut, folder, options.seed)
        try:
            started = time.monotonic()
            store = simulate(simulator, folder / "store", rows, progress=False, timeout=60.0, engine=running.cluster)
            seconds = time.monotonic() - started
        finally:
            running.stop()
    there = Store(folder / "store")
    begun = sum(len(file.read_bytes().splitlines()) for file in there.path.glob("journal/*.jsonl"))
    found = {"rows": rows, "blocks": store.blocks, "seconds": seconds, **running.told, "journal lines": begun}
    return [found], [
        check("digest is another than that of one process", float(store.digest != digest), 0),
        check("rows missing, doubled or failed", abs(rows - store.counts[Status.OK]) + abs(rows - len(there)), 0),
        check("files damaged", len(there.damaged()), 0),
        check("scheduler never cut off", float(not running.told["cut [s]"]), 0),
        check("kills below 5, by", 5 - running.told["kills"], 0),
        check("schedulers that followed one below 1, by", 2 - running.told["schedulers"], 0),
        check("claims left", len(list(there.path.glob("claims-*"))), 0),
    ]


class _Running:
    """A scheduler and two workers, started again when they end, and what is done to them."""

    def __init__(self, host: str, cut: Any, folder: Path, seed: int) -> None:
        self.host, self.cut, self.folder, self.chance = host, cut, folder, random.Random(seed)
        self.cluster = Cluster(f"tcp://{host}:{PORT}", patience=120.0)
        self.ended = threading.Event()
        self.told: dict[str, Any] = {"kills": 0, "cut by": cut.__name__.strip("_"), "cut [s]": 0.0, "schedulers": 0}
        self.scheduler, self.workers = self._scheduler(), [self._worker() for _ in range(2)]
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._supervise, self._harm)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End everything that was started."""
        self.ended.set()
        for thread in self.threads:
            thread.join()
        for process in (*self.workers, self.scheduler):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, *command: str) -> subprocess.Popen[Any]:
        inside = ["ip", "netns", "exec", NAMESPACE] if self.host == FAR and command[1] == "scheduler" else []
        with open(self.folder / "dask.log", "ab") as log:
            how: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True, "cwd": self.folder}
            return subprocess.Popen([*inside, *command], **how)

    def _scheduler(self) -> subprocess.Popen[Any]:
        self.told["schedulers"] += 1
        return self._start("dask", "scheduler", "--host", self.host, "--port", str(PORT), "--no-dashboard")

    def _worker(self) -> subprocess.Popen[Any]:
        return self._start("dask", "worker", self.cluster.address, "--nthreads", "1", "--no-dashboard")

    def _supervise(self) -> None:
        """What a queue does: start again what has ended."""
        while not self.ended.wait(1.0):
            if self.scheduler.poll() is not None:
                self.scheduler = self._scheduler()
            self.workers = [w if w.poll() is None else self._worker() for w in self.workers]

    def _harm(self) -> None:
        harmed = [(12, self._cut), (45, self._kill_scheduler)]
        started = time.monotonic()
        there, shards = 0, self.folder / "store" / "shards"
        while not self.ended.wait(5.0):
            if harmed and time.monotonic() - started > harmed[0][0]:
                harmed.pop(0)[1]()
            if len(list(shards.rglob("0*.h5"))) > there + BETWEEN:  # or a slow machine only starts workers
                there = len(list(shards.rglob("0*.h5")))
                self._kill_worker()

    def _kill_worker(self) -> None:
        nanny = self.chance.choice(self.workers)
        with suppress(OSError):  # which has ended meanwhile
            listed = [file.read_text() for file in Path(f"/proc/{nanny.pid}/task").glob("*/children")]
            for pid in " ".join(listed).split():
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)
                    self.told["kills"] += 1

    def _cut(self) -> None:
        started = time.monotonic()
        with self.cut(self.scheduler):
            time.sleep(CUT)
        self.told["cut [s]"] = time.monotonic() - started

    def _kill_scheduler(self) -> None:
        os.killpg(self.scheduler.pid, signal.SIGKILL)


@contextmanager
def _link() -> Iterator[tuple[str, Any]]:
    """Where the scheduler listens, and what cuts it off: a link of its own, or else it is stopped."""
    near, far = f"{NAMESPACE[:10]}0", f"{NAMESPACE[:10]}1"
    commands = [
        f"ip netns add {NAMESPACE}",
        f"ip link add {near} type veth peer name {far} netns {NAMESPACE}",
        f"ip addr add {NEAR}/30 dev {near}",
        f"ip link set {near} up",
        f"ip -n {NAMESPACE} addr add {FAR}/30 dev {far}",
        f"ip -n {NAMESPACE} link set {far} up",
        f"ip -n {NAMESPACE} link set lo up",
    ]

    @contextmanager
    def link_down(scheduler: subprocess.Popen[Any]) -> Iterator[None]:
        subprocess.run(["ip", "link", "set", near, "down"], check=True)
        yield
        subprocess.run(["ip", "link", "set", near, "up"], check=True)

    @contextmanager
    def sigstop(scheduler: subprocess.Popen[Any]) -> Iterator[None]:
        os.killpg(scheduler.pid, signal.SIGSTOP)
        yield
        os.killpg(scheduler.pid, signal.SIGCONT)

    try:
        made = all(
            subprocess.run(command.split(), capture_output=True, check=False).returncode == 0 for command in commands
        )
        yield (FAR, link_down) if made else ("127.0.0.1", sigstop)
    finally:
        for command in (f"ip link del {near}", f"ip netns del {NAMESPACE}"):
            with suppress(FileNotFoundError):
                subprocess.run(command.split(), capture_output=True, check=False)
