"""Training that follows a store, beside training after the campaign: loss on fresh rows, and the time until the fit.

    python benchmarks/scale.py --parts follow            20,000 rows of two moons, three seeds
    python benchmarks/scale.py --parts follow --quick    10,000 rows of a linear Gaussian, two seeds

For each seed there is a campaign of its own. It is simulated, and a network trained on it: "after". Then another
process commits the same blocks once more into another store, evenly over the time that this training took by the wall's
clock, and `train(..., follow=True)` runs meanwhile: "follow". "late" is the slowest campaign that does not stand still:
each block comes only when the training waits for it. NLL: mean of -log q(theta | x) over 20,000 fresh rows, the same
for all. The wall's seconds of "after" are those of the campaign and of the training together, those of "follow" run
from the first commit to the fit; CPU seconds are of the training process.

The check of the loss is a t test of equal means, one-sided, at 0.5 %: so often it fails where nothing is lost.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from reporting import SIMULATORS, Rows, benchmark, check

from sciinf import Flow, Recipe, Simulator, load_simulator, simulate, train
from sciinf.campaigns import Store, arrivals
from sciinf.core import Fit

BLOCKS, FRESH, FASTER = 40, 20_000, 0.95
T = {2: 9.925, 3: 4.604}  # quantile 0.995 of Student's t with 2 (n - 1) degrees of freedom, by seeds
RECIPE = Recipe(processes=1)


def follow(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """The table and the checks."""
    simulator = load_simulator(SIMULATORS / "linear_gaussian.py") if options.quick else benchmark("two_moons")
    count, seeds = (10_000, 2) if options.quick else (20_000, 3)
    fresh = simulate(simulator, scratch / "fresh", FRESH, seed=999, progress=False)
    rows = []
    for seed in range(options.seed, options.seed + seeds):
        rows += _compared(simulator, count, seed, fresh, scratch / str(seed))
    ways = {way: [row for row in rows if row["way"] == way] for way in ("after", "follow", "late")}
    nll = {way: torch.tensor([row["nll"] for row in found]).double() for way, found in ways.items()}
    checks = []
    for way in ("follow", "late"):
        spread = math.sqrt(float(nll["after"].var() + nll[way].var()) / seeds)
        lost = float(nll[way].mean() - nll["after"].mean())
        checks.append(check(f"{way}: loss above after the fact, in errors of the difference", lost / spread, T[seeds]))
    wall = {way: sum(row["wall s"] for row in ways[way]) for way in ("after", "follow")}
    checks.append(
        check("follow: wall seconds / those of campaign and training", wall["follow"] / wall["after"], FASTER)
    )
    return rows, checks


def _compared(simulator: Simulator, count: int, seed: int, fresh: Store, folder: Path) -> Rows:
    """The three ways with one seed."""
    full = simulate(simulator, folder / "full", count, seed=seed, block=count // BLOCKS, progress=False)

    def fitted(store: Store, out: str, **how: Any) -> tuple[Fit, float, float]:
        network = Flow(simulator.prior, simulator.observables, seed=seed)
        wall, cpu = time.monotonic(), time.process_time()
        fit = train(network, store, folder / out, recipe=RECIPE, seed=seed, progress=False, **how)
        return fit, time.monotonic() - wall, time.process_time() - cpu

    after, seconds, cpu = fitted(full, "after")
    rows = [{"seed": seed, "way": "after", "nll": _nll(after, fresh), "wall s": 2 * seconds, "cpu s": cpu}]
    path = folder / "growing"
    Store.create(path, simulator, seed=seed, block=full.block, rows=count)
    feeder = multiprocessing.get_context("spawn").Process(target=_feed, args=(full.path, path, seconds))
    feeder.start()
    while not len(Store(path)):  # its imports are no part of the campaign
        time.sleep(0.05)
    rows.append(_row(seed, "follow", fresh, fitted(Store(path), "follow", follow=True)))
    feeder.join()
    late = Store.create(folder / "late", simulator, seed=seed, block=full.block, rows=count)
    with _when_waited_for(full, late):
        rows.append(_row(seed, "late", fresh, fitted(Store(late.path), "late_fit", follow=True)))
    if any(Store(store).digest != full.digest for store in (path, late.path)):
        raise RuntimeError("the store that was followed is not that of the campaign")
    return rows


def _row(seed: int, way: str, fresh: Store, found: tuple[Fit, float, float]) -> dict[str, Any]:
    fit, seconds, cpu = found
    return {"seed": seed, "way": way, "nll": _nll(fit, fresh), "wall s": seconds, "cpu s": cpu}


def _feed(full: Path, path: Path, seconds: float) -> None:
    """Commit the blocks of one store into another, evenly over some seconds."""
    source, store = Store(full), Store(path)
    started = time.monotonic()
    for index in range(store.blocks):
        store.commit(index, *source.read(index), seconds=0.0)
        time.sleep(max(0.0, started + (index + 1) * seconds / store.blocks - time.monotonic()))


@contextmanager
def _when_waited_for(full: Store, store: Store) -> Iterator[None]:
    """Commit one block whenever the training waits."""
    waiting, real = iter(range(store.blocks)), arrivals.time

    def sleep(_: float) -> None:
        index = next(waiting)
        store.commit(index, *full.read(index), seconds=0.0)

    arrivals.time = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)  # type: ignore[assignment]
    try:
        yield
    finally:
        arrivals.time = real


def _nll(fit: Fit, fresh: Store) -> float:
    with torch.no_grad():
        losses = [fit.estimator.loss(b, generator=torch.Generator().manual_seed(0)) for b in fresh.batches(5_000)]
    return float(torch.cat(losses).double().mean())
