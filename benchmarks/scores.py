"""Score and flow matching estimators against sbi's NPSE and FMPE, and students of four evaluations: accuracy and speed.

    python benchmarks/scores.py              the eight benchmark tasks at 10,000 simulations
    python benchmarks/scores.py --quick      two_moons and gaussian_linear at 2,000
    python benchmarks/scores.py --no-peer    students against their teachers alone

Both are trained on the same simulations with their defaults, on one thread; what sbi's trainings gave is kept in
`--cache` (`sbi_peer`). "Score, 4 steps" is distilled from the `Score` on the same simulations. C2ST: against 10,000
reference draws, mean over three observations. Seconds: CPU, of 10,000 draws for one observation, the best of two.
"""

from __future__ import annotations

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

from sciinf import Fit, Matching, Score, Store, build_posterior, distil, simulate, train

DRAWS = 10_000
PEERS: dict[str, Kind] = {"Score": "npse", "Matching": "fmpe"}


def main() -> None:
    """Run the comparison."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--estimators", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--compared", type=int, default=None, help="posterior draws in a C2ST")
    parser.add_argument("--no-peer", action="store_true", help="leave sbi out")
    parser.add_argument("--cache", type=Path, default=Path("runs/against_sbi"), help="what sbi's trainings gave")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compared = options.compared or (1_000 if options.quick else DRAWS)
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    for name in options.tasks or (("two_moons", "gaussian_linear") if options.quick else TASKS):
        task = load_task(name, options.data)
        with tempfile.TemporaryDirectory() as scratch:
            folder, size = Path(scratch), 2_000 if options.quick else 10_000
            store = simulate(task.simulator, folder / "simulations", size, seed=options.seed, progress=False)
            for estimator in options.estimators:
                found = compare(estimator, task, store, options, compared, folder)
                rows += found.values()
                checks += judged(f"{name}, {estimator}", found)
    finish(rows, checks, options.json)


def judged(name: str, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What is claimed of one estimator on one task."""
    ours, checks = found["ours"], []
    if "peer" in found:
        theirs = found["peer"]
        checks.append(check(f"{name}: C2ST above sbi's", ours["C2ST"] - theirs["C2ST"], 0.01))
        checks.append(check(f"{name}: seconds of draws / sbi's", ours["draws s"] / theirs["draws s"], 0.2))
    if "student" in found:
        lost = found["student"]["C2ST"] - ours["C2ST"]
        checks.append(check(f"{name}: C2ST of four evaluations above all", lost, 0.03))
    return checks


def compare(
    estimator: str, task: Task, store: Store, options: Any, compared: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """A row for ours, one for sbi's, and one for a student of a `Score`."""
    simulator, generator, seed = task.simulator, torch.Generator().manual_seed(options.seed), options.seed
    kinds = {"Score": Score, "Matching": Matching}
    started = clock("cpu")
    built = kinds[estimator](simulator.prior, simulator.observables, seed=seed)
    fit = train(built, store, folder / estimator, seed=seed)
    spent = clock("cpu") - started

    def row(
        method: str, sample: Callable[[int, Tensor], Tensor], spent: float, known: float | None = None
    ) -> dict[str, Any]:
        distance = _c2st(sample, task, compared) if known is None else known
        shown = {"task": task.name, "simulations": len(store), "method": method, "C2ST": distance}
        return {**shown, "draws s": _seconds(sample, task), "training s": spent}

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
