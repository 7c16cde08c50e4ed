"""Workers with nothing between them: killed at random moments, and as SLURM jobs that end in every way jobs do.

Part "killed": two `sciinf work` and one `sciinf simulate` on one store; at 20 random moments one of them gets SIGKILL,
and is started again. Before each the store is opened and read. Part "slurm": a cluster of two nodes in a folder
(`slurm_here`), an array of two jobs; a job is cancelled, a node's daemon is killed while its job goes on, a whole node
is killed with its job, and (not with --quick) walltimes of a minute end jobs twice.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from reporting import Rows, check
from slurm_here import Slurm, cluster, lacking

from sciinf import load_simulator, simulate
from sciinf.campaigns import Store, slurm_array
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.slurm_array import SlurmArray
from sciinf.campaigns.work import plan, work
from sciinf.core import Status

SIMULATOR = """
import os, time
import torch
from sciinf import Normal, Observable, Prior, Simulator


class Slow(Simulator):
    name = "slow"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = 5

    def __call__(self, theta, *, generator):
        time.sleep(float(os.environ.get("NAP", 0)))
        return {"v": theta + torch.randn(len(theta), 3, generator=generator)}


simulator = Slow()
"""
KILLS = 20


def killed(options: Any, folder: Path) -> tuple[Rows, Rows]:
    """Three processes on one store, killed and started again."""
    blocks, kills = (400, 8) if options.quick else (2_000, KILLS)
    simulator, one = _begun(folder, 5 * blocks)
    plan(simulator, folder / "store", 5 * blocks)
    multiprocessing.set_forkserver_preload(["sciinf.campaigns.work", "sciinf.campaigns.simulation"])
    os.environ["NAP"] = "0.03"
    dice, kinds = random.Random(options.seed), ["work 0/2", "work 1/2", "simulate"]
    crew = [_process(kind, folder, 5 * blocks) for kind in kinds]
    known, store = dict[int, str](), Store(folder / "store")
    lost, torn, ended, hit = 0, 0, 0, 0
    while hit < kills and not all(process.exitcode == 0 for process in crew):
        time.sleep(dice.uniform(0.1, 0.9))
        which = dice.randrange(len(crew))
        if crew[which].exitcode == 0:
            continue
        crew[which].kill()
        crew[which].join()
        hit += 1
        store.refresh()
        now = {index: entry.content for index, entry in store.entries()}
        lost += sum(now.get(index) != content for index, content in known.items())
        torn, known = torn + len(store.damaged()), now
        crew[which] = _process(kinds[which], folder, 5 * blocks)
    for process in crew:
        process.join()
        ended += process.exitcode == 0
    row = {"kills": hit, "lost": lost, "torn": torn, **_left(folder / "store", one)}
    checks = [
        check(f"killed: {kills} processes were killed before the end (missing)", kills - hit, 0),
        check("killed: committed blocks lost", lost, 0),
        check("killed: torn files seen", torn, 0),
        check("killed: processes that did not end well", len(crew) - ended, 0),
        *_judged("killed", row),
    ]
    return [row], checks


def slurm(options: Any, folder: Path) -> tuple[Rows, Rows]:
    """An array of two jobs on two nodes; what ends jobs, one after the other."""
    if reason := lacking():
        return [{"skipped": reason}], []
    blocks, limit = (120, "00:05:00") if options.quick else (600, "00:01:00")
    simulator, one = _begun(folder, 5 * blocks)
    store = plan(simulator, folder / "store", 5 * blocks)
    os.environ["NAP"] = "0.5"
    events = {10: "scancel", 30: "slurmd killed", 50: "node killed"}
    seen, waited, started = list[dict[str, Any]](), 0.0, time.monotonic()
    with cluster(folder / "cluster") as here:
        engine = SlurmArray(f"partition=debug time={limit} jobs=2")
        engine.check(simulator)
        campaign = Campaign(store, simulator, store.missing(), device="cpu", timeout=None)
        with closing(engine.run(campaign)) as entries:
            last = time.monotonic()
            for count, _ in enumerate(entries, 1):
                waited, last = max(waited, time.monotonic() - last), time.monotonic()
                if count in events:
                    seen.append({"event": events[count], "at": last - started, **_happens(events[count], here)})
        said = "\n".join(file.read_text() for file in (folder / "store" / "logs").glob("*.txt"))
        jobs = len({file.name.split("_")[0] for file in (folder / "store" / "logs").glob("*_*.txt")})
        left = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=False).stdout
    row = {
        "seconds": time.monotonic() - started,
        "submissions": jobs,
        "cancelled": len(re.findall(r"CANCELLED AT (?!.*DUE TO)", said)),
        "walltimes": len(re.findall("DUE TO TIME LIMIT", said)),
        "longest wait": waited,
        **_left(folder / "store", one),
    }
    checks = [
        check("slurm: jobs that were not replaced (submissions lacking)", max(0, 2 - jobs), 0),
        check("slurm: walltimes that were not reached", 0 if options.quick else max(0, 2 - row["walltimes"]), 0),
        check("slurm: jobs left in the queue", len(left.split("\n")) - 1, 2),
        *_judged("slurm", row),
    ]
    return [row, *seen], checks


def _happens(event: str, here: Slurm) -> dict[str, str]:
    running = here.run("squeue", "-h", "-r", "-t", "R", "-o", "%i %N").split("\n")[0].split()
    job, node = running if len(running) == 2 else ("", here.nodes[0])
    if event == "scancel" and job:
        here.run("scancel", job)
    elif event == "slurmd killed":
        here.kill_daemon(node)
        time.sleep(1)
        here.start_node(node)
    elif event == "node killed":
        here.kill_node(node)
        time.sleep(2)
        here.start_node(node)
    return {"job": job, "node": node[-2:]}


def _begun(folder: Path, rows: int) -> tuple[Any, Store]:
    """The simulator, and the store of a single undisturbed process."""
    (folder / "slow.py").write_text(SIMULATOR)
    simulator = load_simulator(folder / "slow.py")
    os.environ["NAP"] = "0"
    return simulator, simulate(simulator, folder / "one", rows, progress=False)


def _process(kind: str, folder: Path, rows: int) -> Any:
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=(kind, str(folder), rows))
    process.start()
    return process


def _run(kind: str, folder: str, rows: int) -> None:
    os.environ["NAP"] = "0.03"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    simulator, path = load_simulator(Path(folder) / "slow.py"), Path(folder) / "store"
    if kind == "simulate":
        simulate(simulator, path, rows, progress=False)
    else:
        first, of = map(int, kind.split()[1].split("/"))
        work(Store(path), simulator, share=(first, of), progress=False)


def _left(path: Path, one: Store) -> dict[str, Any]:
    """What a store holds in the end."""
    store, hints = Store(path), 0
    with suppress(FileNotFoundError):
        hints = len(list((path / "working").iterdir()))
    return {
        "blocks": store.blocks,
        "missing": len(store.missing()),
        "damaged": len(store.damaged()),
        "failed rows": len(store) - store.counts[Status.OK],
        "done twice": sum(len(store.history(k)) - 1 for k in range(store.blocks) if store.history(k)),
        "hints left": hints,
        "digest equal": store.digest == one.digest,
    }


def _judged(part: str, row: dict[str, Any]) -> Rows:
    return [
        *(check(f"{part}: {name}", row[name], 0) for name in ("missing", "damaged", "failed rows", "hints left")),
        check(f"{part}: digest is not that of one process", float(not row["digest equal"]), 0),
    ]


slurm_array.LOOK = 2.0
