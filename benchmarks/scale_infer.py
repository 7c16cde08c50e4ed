"""The whole workflow where blocks run elsewhere: `sciinf infer` with each engine, and the digests of all its stores.

Part "infer": `sciinf infer` on a small simulator by one process, by `--workers 2`, on a Dask cluster (`--scheduler`)
and as SLURM jobs (`--slurm`), in a run with rounds around the observation. Rows to train on, rows to calibrate on,
those of the rounds and the fresh ones of the rounds must be the same bits. SLURM is left out where it is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reporting import Rows, check
from slurm_here import cluster, lacking

from sciinf.campaigns import Store

SIMULATOR = """
import torch
from sciinf import Normal, Observable, Prior, Simulator


class Slow(Simulator):
    name = "slow"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = 50

    def __call__(self, theta, *, generator):
        return {"v": theta + torch.randn(len(theta), 3, generator=generator)}


simulator = Slow()
"""


def infer(options: Any, folder: Path) -> tuple[Rows, Rows]:
    """One run with each engine. With --quick there are no rounds around the observation."""
    (folder / "slow.py").write_text(SIMULATOR)
    (folder / "data.csv").write_text("v\n0.5\n0.2\n0.9\n")
    more = ["--refine", "off"] if options.quick else []
    rows = [_run(folder, "one process", more), _run(folder, "workers", ["--workers", "2", *more])]
    with _dask(folder) as address:
        rows.append(_run(folder, "dask", ["--scheduler", address, *more]))
    if lacking():
        rows.append({"engine": "slurm", "skipped": lacking()})
    else:
        with cluster(folder / "cluster"):
            rows.append(_run(folder, "slurm", ["--slurm", "partition=debug time=00:10:00 jobs=2", *more]))
    one, checks = rows[0].pop("digests"), list[dict[str, Any]]()
    for row in rows[1:]:
        found = row.pop("digests", one)
        differ = sum(found.get(name) != digest for name, digest in one.items()) + len(found.keys() - one.keys())
        checks.append(check(f"infer, {row['engine']}: stores that are not those of one process", differ, 0))
    least = 2 if options.quick else 4
    return rows, [*checks, check(f"infer: stores fewer than {least}", max(0, least - len(one)), 0)]


def _run(folder: Path, engine: str, more: list[str]) -> dict[str, Any]:
    """A run in a folder of its own, and the digests of its stores by where they lie in it.

    Raises:
        RuntimeError: If it fails.
    """
    out, started = folder / engine.replace(" ", "_"), time.monotonic()
    words = ["infer", str(folder / "slow.py"), "--observation", str(folder / "data.csv"), "--out", str(out), *more]
    words = [sys.executable, "-m", "sciinf.cli", *words, "-n", "500", "--calibration", "100", "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"sciinf infer by {engine}: {done.stderr[-2_000:]}")
    stores = {str(file.parent.relative_to(out)): Store(file.parent) for file in out.rglob("store.json")}
    return {
        "engine": engine,
        "seconds": time.monotonic() - started,
        "stores": len(stores),
        "missing": sum(len(store.missing()) for store in stores.values()),
        "digests": {name: store.digest for name, store in stores.items()},
    }


@contextmanager
def _dask(folder: Path) -> Iterator[str]:
    """A scheduler and two workers, as programs of their own; the address."""
    file, dask = folder / "scheduler.json", [sys.executable, "-m", "dask"]
    how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    how["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *where], **how)
    workers = subprocess.Popen([*dask, "worker", "--nworkers", "2", "--nthreads", "1", *where], **how)
    try:
        while not file.is_file():
            if scheduler.poll() is not None:
                raise RuntimeError("dask scheduler does not start")
            time.sleep(0.1)
        yield str(file)
    finally:
        for process in (workers, scheduler):
            process.terminate()
            process.wait()
