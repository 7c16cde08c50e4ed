"""Stores on an S3 service: refused, cut and killed, and how fast, beside the local disk.

The service is moto's on loopback, which is written in Python: its rates say what our side costs and how many requests
it makes, not what a real service or a line gives. Nothing here depends on its clock.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import object_server
import torch
from reporting import Rows, check

from sciinf import Simulator, load_simulator, simulate
from sciinf.campaigns import Store
from sciinf.campaigns.storage.judged import VARIABLE
from sciinf.campaigns.storage.objects import folder_at
from sciinf.training.rows import Rows as TrainingRows

FAULTS = ("503", "429", "409", "done:500", "done:503", "cut")
SHARE = 0.1  # of the requests
SIMULATOR = """
import torch
from sciinf.core import Observable, Prior, Simulator, Uniform


class Wide(Simulator):
    name = "wide"
    prior = Prior(a=Uniform(-1.0, 1.0), b=Uniform(0.5, 2.0))
    observables = {"v": Observable((WIDTH,))}
    block = BLOCK

    def __call__(self, theta, *, generator):
        noise = torch.randn(len(theta), WIDTH, generator=generator)
        return {"v": theta[:, :1] + theta[:, 1:] * noise}


simulator = Wide()
"""
CAMPAIGN = "import sys; from sciinf import load_simulator, simulate; " + (
    "simulate(load_simulator(sys.argv[1]), sys.argv[2], int(sys.argv[3]), progress=False)"
)


def objects(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """A campaign that everything happens to, and rates beside the local disk."""
    blocks = 100 if options.quick else 1_000
    found, checks = _troubled(_simulator(scratch, "small", 10, 20), blocks * 20, scratch, options.seed)
    rates, more = _rates(scratch, 40 if options.quick else 200)
    return found + rates, checks + more


def _simulator(scratch: Path, name: str, width: int, block: int) -> Simulator:
    file = scratch / f"{name}.py"
    file.write_text(SIMULATOR.replace("WIDTH", str(width)).replace("BLOCK", str(block)))
    return load_simulator(file)


def _troubled(simulator: Simulator, rows: int, scratch: Path, seed: int) -> tuple[Rows, Rows]:
    """Two campaigns on one store at a time, killed by SIGKILL, while a share of all requests fails."""
    local = simulate(simulator, scratch / "local", rows, progress=False)
    with object_server.serving() as server:
        address, moments, kills = f"s3://{server.bucket}/troubled", random.Random(seed), 0
        torn = 0
        with server.failing(object_server.at_random(seed, SHARE, FAULTS, ("PUT", "GET", "HEAD"))):
            for _ in range(3):
                writers = [_campaign(simulator, address, rows) for _ in range(2)]
                before = _count(address)
                while _count(address) < before + local.blocks // 10 and any(one.poll() is None for one in writers):
                    time.sleep(0.2)
                for writer in writers:
                    time.sleep(moments.uniform(0.0, 0.2))
                    kills += writer.poll() is None
                    writer.send_signal(signal.SIGKILL)
                    writer.wait()
                torn += len(Store(address).damaged()) if _count(address) else 0
            started = time.monotonic()
            store = simulate(simulator, address, rows, progress=False)
            seconds, digest = time.monotonic() - started, store.digest
        faults = sum(server.met[fault] for fault in FAULTS)
        written = server.versions("troubled/")
        lines = sum(key.startswith("troubled/journal/") for key in written)
    told = {"requests": sum(server.met.values()), "failed": faults, "kills": kills, "blocks": store.blocks}
    row = {"run": "troubled", **told, "lines": lines, "last run [s]": seconds}
    return [row], [
        check("objects: digest is not that of the local store", float(digest != local.digest), 0.0),
        check("objects: rows missing", float(rows - len(store)), 0.0),
        check("objects: blocks torn or damaged after a kill", float(torn), 0.0),
        check("objects: objects written more than once", float(sum(n > 1 for n in written.values())), 0.0),
        check("objects: campaigns that were not killed", 6.0 - kills, 5.0),
    ]


def _campaign(simulator: Simulator, address: str, rows: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", CAMPAIGN, str(simulator.source), address, str(rows)]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL)


def _count(address: str) -> int:
    return sum(1 for _ in folder_at(address).names("shards"))


@contextmanager
def _apart() -> Iterator[None]:
    """A service in a process of its own, so that its seconds are not ours."""
    words = [sys.executable, object_server.__file__]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.environ.update({**object_server.SIGNS, "AWS_ENDPOINT_URL": process.stdout.readline().strip()})
        yield
        assert process.stdin is not None
        process.stdin.close()


def _rates(scratch: Path, blocks: int) -> tuple[Rows, Rows]:
    """Blocks of 2 MB and of 2 kB: written, opened, verified, and streamed for training."""
    found, checks = list[dict[str, Any]](), list[dict[str, Any]]()
    with _apart():
        for name, width, block in (("2 MB", 500, 1_000), ("2 kB", 10, 40)):
            simulator, digests = _simulator(scratch, name.replace(" ", "_"), width, block), set[str]()
            for place in ("disk", "s3", "s3, cache"):
                path = str(scratch / f"disk {name}") if place == "disk" else f"s3://simulations/{width}/{place[2:]}all"
                os.environ.pop(VARIABLE, None)
                if "cache" in place:
                    os.environ[VARIABLE] = str(scratch / f"cache {name}")
                row, digest = _timed(simulator, path, blocks * block)
                found.append({"blocks of": name, "place": place, **row})
                digests.add(digest)
            checks.append(check(f"objects: digests that differ, {name}", float(len(digests) - 1), 0.0))
    return found, checks


def _timed(simulator: Simulator, path: str, rows: int) -> tuple[dict[str, Any], str]:
    store, write = _clocked(lambda: simulate(simulator, path, rows, progress=False))
    opened, open_ = _clocked(lambda: Store(path))
    digest, verify = _clocked(lambda: opened.digest)
    size = rows * (store.read(0)[1].x["v"][0].numel() + 2) * 4
    source = TrainingRows(opened, fraction=0.1, device="cpu", memory=min(size // 2, 2**28))
    _, stream = _clocked(lambda: sum(len(b) for b in source.epoch(0, 100, torch.Generator().manual_seed(0))))
    told = {"blocks": store.blocks, "write [blocks/s]": store.blocks / write[0], "write CPU [ms/block]": write[1] * 1e3}
    told["write CPU [ms/block]"] /= store.blocks
    told |= {
        "open [s]": open_[0],
        "verify [MB/s]": size / verify[0] / 1e6,
        "stream [MB/s]": 0.9 * size / stream[0] / 1e6,
    }
    return {**told, "stream CPU [s]": stream[1]}, digest


def _clocked(call: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What a call gives, and wall and CPU seconds of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, (time.perf_counter() - wall, time.process_time() - cpu)
