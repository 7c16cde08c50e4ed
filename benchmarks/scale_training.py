"""Training on several processes and from stores larger than the memory: the same curves, how fast, how much memory.

Called by `scale.py --parts training`; started by torchrun, it is one of the processes that train.

Curves: one and two processes, `Flow` in float64, ten epochs; all losses within 1e-6, relative, batches that two do not
share evenly included. Rates: rows a second of the epochs, by the wall, which other programs slow down, and by the CPU
seconds of the process that has most, which is what the wall would be on idle cores but for waiting. Streaming: rows a
second from a store with less memory than it takes, beside rows in memory, and the largest resident memory of the
process, Python and torch included; the CPU seconds are those of the reading thread, too.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check
from torch import Tensor

from sciinf import Flow, Normal, Observable, Prior, Recipe, Simulator, Store, load_simulator, simulate, train
from sciinf.core.files import read_json, write_json
from sciinf.engine.loop import Loop
from sciinf.flows.zuko_flows import MAF
from sciinf.summaries.vector import MLP

GB = 10**9
VALUES = 1_000  # of a wide row: 4 kB
RAGGED = 501  # rows a step, which two processes do not share evenly
SLOW = 2e-3  # learning rate: at the default one training makes rounding ten times as large with each epoch
NEAR, SLOWEST, RESIDENT = 1e-6, 0.7, 2.0  # relative; share of the rate in memory; GB


class Wide(Simulator):
    """Five parameters, and a thousand numbers of noise around lines of them."""

    name = "wide"
    prior = Prior(**{name: Normal(0.0, 1.0) for name in "abcde"})
    observables = {"x": Observable((VALUES,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Theta, repeated, with noise of sd 10."""
        noise = torch.randn(len(theta), VALUES, generator=generator)
        return {"x": theta.repeat(1, VALUES // 5).float() + 10 * noise}


def training(options: Any, scratch: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The part of `scale.py`."""
    rows, checks = [], []
    for found in (curves(options.quick, options.seed, scratch), streaming(options.quick, options.seed, scratch)):
        rows += found[0]
        checks += found[1]
    return rows, checks


def curves(quick: bool, seed: int, scratch: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One process and two: the same losses in float64, and rates at the same loss in float32."""
    store, count = scratch / "rows", 20_000 if quick else 100_000
    simulate(load_simulator(SIMULATORS / "linear_gaussian.py"), store, count, seed=seed, progress=False)
    exact = {
        "what": "float64",
        "store": str(store),
        "double": True,
        "epochs": 10,
        "batch": RAGGED,
        "rate": SLOW,
        "seed": seed,
    }
    fast = {
        "what": "float32",
        "store": str(store),
        "double": False,
        "epochs": 10,
        "batch": 8 * RAGGED,
        "rate": None,
        "seed": seed,
    }
    told: dict[tuple[str, int], dict[str, Any]] = {}
    for job in (exact, fast):
        for processes in (1, 2):
            told[job["what"], processes] = trained(job, processes, scratch / f"{job['what']}_{processes}")
    off = apart(told["float64", 1]["losses"], told["float64", 2]["losses"])
    one, two = told["float32", 1], told["float32", 2]
    rows = [
        {
            "training": what,
            "processes": count,
            "rows_per_s": said["rows"] / said["wall"],
            "rows_per_cpu_s": said["rows"] / said["cpu"],
            "validation_loss": said["losses"][-1][1],
        }
        for (what, count), said in told.items()
    ]
    rows[1]["largest_difference"] = off
    rows[3]["times_one_process"] = one["cpu"] / two["cpu"]
    checks = [
        check("losses of two processes, float64, relative difference from one", off, NEAR),
        check(
            "validation loss of two processes, float32, off from one",
            abs(two["losses"][-1][1] - one["losses"][-1][1]),
            0.02,
        ),
        check("a process of two takes, of the CPU seconds of one alone", two["cpu"] / one["cpu"], 0.7),
    ]
    return rows, checks


def streaming(quick: bool, seed: int, scratch: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows a second of a store that does not fit in the memory given, beside those of one that does."""
    size = 1.0 if quick else min(50.0, shutil.disk_usage(scratch).free / GB / 3)
    large = wide(size, seed, scratch / "large")
    small = large if quick else wide(1.0, seed, scratch / "small")
    how = {"what": "wide", "double": False, "epochs": 2, "batch": 500, "seed": seed}
    memory = GB // 5 if quick else GB
    kept = trained(how | {"store": str(small), "memory": 4 * GB}, 1, scratch / "kept")
    streamed = trained(how | {"store": str(large), "memory": memory}, 1, scratch / "streamed")
    rows = [
        {
            "store_gb": sum(file.stat().st_size for file in (store / "shards").rglob("*.h5")) / GB,
            "memory_gb": given / GB,
            "rows_per_s": said["rows"] / said["wall"],
            "rows_per_cpu_s": said["rows"] / said["cpu"],
            "resident_gb": said["resident"] / GB,
        }
        for store, given, said in ((small, 4 * GB, kept), (large, memory, streamed))
    ]
    share = rows[0]["rows_per_s"] / rows[1]["rows_per_s"], rows[0]["rows_per_cpu_s"] / rows[1]["rows_per_cpu_s"]
    checks = [
        check("rows in memory, times as fast as streamed (the better of wall and CPU)", min(share), 1 / SLOWEST),
        check("resident memory of the training that streams, GB", rows[1]["resident_gb"], RESIDENT),
    ]
    return rows, checks


def wide(size: float, seed: int, folder: Path) -> Path:
    """A store of so many GB."""
    simulate(Wide(), folder, round(size * GB / (4 * VALUES)), block=4096, seed=seed, progress=False)
    return folder


def trained(job: Mapping[str, Any], processes: int, out: Path) -> dict[str, Any]:
    """What a training in processes of its own tells: losses, rows, seconds of its epochs, resident memory."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*run, __file__, json.dumps(dict(job)), str(out)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    told = [read_json(out / f"told_{rank}.json") for rank in range(processes)]
    history = read_json(out / "fit.json")["history"]
    losses = [[row["train_loss"], row["validation_loss"]] for row in history]
    return {"losses": losses, **{name: max(one[name] for one in told) for name in ("rows", "wall", "cpu", "resident")}}


def apart(one: list[list[float]], two: list[list[float]]) -> float:
    """The largest relative difference of two curves."""
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(two, dtype=torch.float64)
    return float(((a - b) / a).abs().max())


def work(job: Mapping[str, Any], out: Path) -> None:
    """Train, as one of the processes, and write down what it took."""
    torch.set_num_threads(1)
    store = Store(job["store"])
    how: dict[str, Any] = {"summary": MLP(hidden=(64, 64))} if job["what"] == "wide" else {}
    how |= {"flow": MAF(3, (64, 64))} if job["double"] else {}
    flow = Flow(store.prior, store.observables, seed=job["seed"], **how)
    memory = {"memory": job["memory"]} if "memory" in job else {}
    recipe = Recipe(
        epochs=job["epochs"], batch=job["batch"], validate_every=1, learning_rate=job.get("rate"), processes=1, **memory
    )
    took, run = dict[str, float](), Loop.run

    def timed(self: Loop) -> None:
        cpu, wall = time.process_time(), time.monotonic()
        run(self)
        took.update(cpu=time.process_time() - cpu, wall=time.monotonic() - wall, rows=self.source.train * self.epochs)

    Loop.run = timed
    train(flow.double() if job["double"] else flow, store, out, recipe=recipe, seed=job["seed"], progress=False)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write_json(out / f"told_{os.environ.get('RANK', '0')}.json", {**took, "resident": resident})


if __name__ == "__main__":
    work(json.loads(sys.argv[1]), Path(sys.argv[2]))
