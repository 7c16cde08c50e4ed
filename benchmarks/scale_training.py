"""Training on several processes and from stores larger than the memory: the same curves, how fast, how much memory.

Called by `scale.py --parts training`; started by torchrun, it is one of the processes that train.

Curves: one and two processes, `Flow` in float64, ten epochs of batches that two do not share evenly; all losses within
1e-6, relative. Training makes rounding larger with each step, in one process as in two: beside stands what it does
where the rows of each batch come in another order. Rates: rows a second of the epochs, by the wall, which other
programs slow down, and by the CPU seconds of the process that has most, which is what the wall would be on idle cores
but for waiting. Streaming: rows a second from a store with less memory than it takes, beside rows in memory, and the
largest resident memory of the process, Python and torch included; the CPU seconds are those of the reading thread, too.
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

from sciinf import Flow, Normal, Observable, Prior, Recipe, Simulator, load_simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.core.files import read_json, write_json
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.networks.summaries.vector import MLP
from sciinf.training.loop import Loop
from sciinf.training.step import Step

GB = 10**9
VALUES = 1_000  # of a wide row: 4 kB
TURNED = "1, rows of a batch in another order"  # the same but for rounding
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
    """One process and two: the same losses in float64, and rates in float32, beside what rounding does by itself."""
    store, count = scratch / "rows", 20_000 if quick else 100_000
    simulate(load_simulator(SIMULATORS / "linear_gaussian.py"), store, count, seed=seed, progress=False)
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for what, batch in (("float64", count // 10 + 1), ("float32", count // 5 + 2)):  # which two do not share evenly
        job = {"what": what, "store": str(store), "epochs": 10, "batch": batch, "seed": seed}
        for name, processes in (("1", 1), (TURNED, 1), ("2", 2)):
            said = trained(job | {"turned": name == TURNED}, processes, scratch / f"{what}_{name}".replace(" ", "_"))
            told[what, name] = said | {"off": apart(told.get((what, "1"), said)["losses"], said["losses"])}
    rows = [
        {
            "training": what,
            "processes": name,
            "rows_per_s": said["rows"] / said["wall"],
            "rows_per_cpu_s": said["rows"] / said["cpu"],
            "times_one_by_cpu": told[what, "1"]["cpu"] / said["cpu"],
            "validation_loss": said["losses"][-1][1],
            "off": said["off"],
        }
        for (what, name), said in told.items()
    ]
    exact, rough = told["float64", "2"]["off"], told["float32", "2"]["off"]
    checks = [
        check("losses of two processes, float64, relative difference from one", exact, NEAR),
        check(
            "float32, times the difference that another order of rows makes", rough / told["float32", TURNED]["off"], 10
        ),
        check("CPU s of one alone, share that each of two takes", 1 / rows[-1]["times_one_by_cpu"], 0.7),
    ]
    return rows, checks


def streaming(quick: bool, seed: int, scratch: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows a second of a store that does not fit in the memory given, beside those of one that does."""
    size = 1.0 if quick else min(50.0, 0.7 * shutil.disk_usage(scratch).free / GB)
    large = wide(size, seed, scratch / "large")
    small = large if quick else wide(1.0, seed, scratch / "small")
    how = {"what": "wide", "epochs": 2, "batch": 500, "seed": seed}
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
    share = rows[0]["rows_per_cpu_s"] / rows[1]["rows_per_cpu_s"]
    checks = [
        check("rows in memory, times as fast as streamed, by CPU seconds", share, 1 / SLOWEST),
        check("resident memory of the training that streams, GB", rows[1]["resident_gb"], RESIDENT),
    ]
    return rows, checks


def wide(size: float, seed: int, folder: Path) -> Path:
    """A store of so many GB."""
    simulate(Wide(), folder, round(size * GB / (4 * VALUES)), block=4096, seed=seed, progress=False)
    return folder


def trained(job: Mapping[str, Any], processes: int, out: Path) -> dict[str, Any]:
    """What a training in processes of its own tells: losses, rows, seconds of its epochs, resident memory."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    run = [sys.executable, *(launcher if processes > 1 else [])]
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
    how |= {"flow": MAF(3, (64, 64))} if job["what"] == "float64" else {}
    flow = Flow(store.prior, store.observables, seed=job["seed"], **how)
    memory = {"memory": job["memory"]} if "memory" in job else {}
    recipe = Recipe(epochs=job["epochs"], batch=job["batch"], validate_every=1, processes=1, **memory)
    if job.get("turned"):
        Step._own = lambda self, batch: batch.rows(torch.arange(len(batch) - 1, -1, -1))
    took, run = dict[str, float](), Loop.run

    def timed(self: Loop) -> None:
        cpu, wall = time.process_time(), time.monotonic()
        run(self)
        took.update(cpu=time.process_time() - cpu, wall=time.monotonic() - wall, rows=self.source.train * self.epochs)

    Loop.run = timed
    train(
        flow.double() if job["what"] == "float64" else flow, store, out, recipe=recipe, seed=job["seed"], progress=False
    )
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write_json(out / f"told_{os.environ.get('RANK', '0')}.json", {**took, "resident": resident})


if __name__ == "__main__":
    work(json.loads(sys.argv[1]), Path(sys.argv[2]))
