"""Score and flow matching estimators against sbi's NPSE and FMPE, and students of four evaluations: accuracy and speed.

    python benchmarks/scores.py              the eight benchmark tasks at 10,000 simulations
    python benchmarks/scores.py --quick      two_moons and gaussian_linear at 2,000, within wider bounds
    python benchmarks/scores.py --no-peer    students against their teachers alone
    python benchmarks/scores.py --tasks slcp --seeds 3    means over three seeds, which move the C2ST of SLCP by 0.04

Both are trained on the same simulations with their defaults, on one thread; what sbi's trainings gave is kept in
`--cache` (`sbi_peer`). "Score, 4 steps" is distilled from the `Score` on the same simulations. C2ST: against 10,000
reference draws, mean over three observations. Seconds: CPU, of 10,000 draws for one observation, the best of two.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against_sbi import Task, load_task
from reporting import TASKS, arguments, check, clock, finish
from sbi_peer import Kind, c2st, train_peer
from torch import Tensor

from sciinf import Matching, Score, build_posterior, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Fit
from sciinf.training import distil

DRAWS = 10_000
ABOVE, ABOVE_QUICK = 0.01, 0.06  # at 2,000 simulations `Score` was 0.03 and 0.04 behind on two moons, in two runs
PEERS: dict[str, Kind] = {"Score": "npse", "Matching": "fmpe"}
Found = dict[str, dict[str, Any]]  # a row by whose it is: ours, peer, student


def main() -> None:
    """Run the comparison."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--estimators", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, counted from --seed")
    parser.add_argument("--compared", type=int, default=None, help="posterior draws in a C2ST")
    parser.add_argument("--no-peer", action="store_true", help="leave sbi out")
    parser.add_argument("--cache", type=Path, default=Path("runs/against_sbi"), help="what sbi's trainings gave")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compared = options.compared or (1_000 if options.quick else DRAWS)
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    seeds, size = range(options.seed, options.seed + options.seeds), 2_000 if options.quick else 10_000
    for name in options.tasks or (("two_moons", "gaussian_linear") if options.quick else TASKS):
        task = load_task(name, options.data)
        found: dict[str, list[Found]] = {estimator: [] for estimator in options.estimators}
        for seed in seeds:
            with tempfile.TemporaryDirectory() as scratch:
                store = simulate(task.simulator, Path(scratch) / "simulations", size, seed=seed, progress=False)
                for estimator, each in found.items():
                    each.append(compare(estimator, task, store, options, compared, seed))
                    rows += each[-1].values()
        for estimator, each in found.items():
            checks += judged(f"{name}, {estimator}", each, ABOVE_QUICK if options.quick else ABOVE)
    finish(rows, checks, options.json)


def judged(name: str, seeds: list[Found], above: float) -> list[dict[str, Any]]:
    """What is claimed of one estimator on one task: of means over seeds; above sbi's C2ST by so much at most."""

    def mean(method: str, figure: str) -> float:
        return float(np.mean([found[method][figure] for found in seeds]))

    checks = []
    if "peer" in seeds[0]:
        checks.append(check(f"{name}: C2ST above sbi's", mean("ours", "C2ST") - mean("peer", "C2ST"), above))
        share = mean("ours", "draws s") / mean("peer", "draws s")
        checks.append(check(f"{name}: seconds of draws / sbi's", share, 0.2))
    if "student" in seeds[0]:
        lost = mean("student", "C2ST") - mean("ours", "C2ST")
        checks.append(check(f"{name}: C2ST of four evaluations above all", lost, 0.03))
    return checks


def compare(estimator: str, task: Task, store: Store, options: Any, compared: int, seed: int) -> Found:
    """A row for ours, one for sbi's, and one for a student of a `Score`; fits lie beside the store."""
    folder = store.path.parent
    simulator, generator = task.simulator, torch.Generator().manual_seed(seed)
    kinds = {"Score": Score, "Matching": Matching}
    started = clock("cpu")
    built = kinds[estimator](simulator.prior, simulator.observables, seed=seed)
    fit = train(built, store, folder / estimator, seed=seed)
    spent = clock("cpu") - started

    def row(
        method: str, sample: Callable[[int, Tensor], Tensor], spent: float, known: float | None = None
    ) -> dict[str, Any]:
        distance = _c2st(sample, task, compared) if known is None else known
        shown = {"task": task.name, "simulations": len(store), "seed": seed, "method": method}
        made = {**shown, "C2ST": distance, "draws s": _seconds(sample, task), "training s": spent}
        print(json.dumps(made), file=sys.stderr, flush=True)
        return made

    def drawn(trained: Fit) -> Callable[[int, Tensor], Tensor]:
        posterior = build_posterior(trained)
        return lambda n, x: posterior.sample((n,), x=x, generator=generator)

    found = {"ours": row(estimator, drawn(fit), spent)}
    if not options.no_peer:
        peer = train_peer(PEERS[estimator], simulator, store, seed, options.cache)

        def peers(n: int, x: Tensor) -> Tensor:
            return peer.posterior.sample((n,), x=x, show_progress_bars=False)

        distance = peer.remembered(f"C2ST {compared}", lambda: _c2st(peers, task, compared))
        found["peer"] = row(f"sbi {PEERS[estimator]}", peers, peer.cpu, distance)
    if estimator == "Score":
        started = clock("cpu")
        student = distil(fit, store, folder / "student", steps=4, seed=seed)
        found["student"] = row("Score, 4 steps", drawn(student), clock("cpu") - started)
    return found


def _c2st(sample: Callable[[int, Tensor], Tensor], task: Task, compared: int) -> float:
    pairs = zip(task.observations, task.references, strict=True)
    return float(np.mean([c2st(sample(compared, x), reference[:compared]) for x, reference in pairs]))


def _seconds(sample: Callable[[int, Tensor], Tensor], task: Task) -> float:
    """CPU seconds of 10,000 draws."""
    spent = []
    for _ in range(2):
        started = clock("cpu")
        sample(DRAWS, task.observations[0])
        spent.append(clock("cpu") - started)
    return min(spent)


if __name__ == "__main__":
    main()
