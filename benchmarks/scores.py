"""Score and flow matching estimators against sbi's NPSE and FMPE: accuracy and speed of drawing.

    python benchmarks/scores.py              the eight benchmark tasks at 10,000 simulations
    python benchmarks/scores.py --quick      two_moons and gaussian_linear at 2,000

Both are trained on the same simulations with their defaults, on one thread; what sbi's trainings gave is kept in
`--cache` (`sbi_peer`). C2ST: against 10,000 reference draws, mean over three observations. Seconds: CPU, of 10,000
draws for one observation, the best of two.
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

from sciinf import Matching, Score, Store, build_posterior, simulate, train

DRAWS = 10_000
PEERS: dict[str, Kind] = {"Score": "npse", "Matching": "fmpe"}


def main() -> None:
    """Run the comparison."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--estimators", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--compared", type=int, default=None, help="posterior draws in a C2ST")
    parser.add_argument("--cache", type=Path, default=Path("runs/against_sbi"), help="what sbi's trainings gave")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compared = options.compared or (1_000 if options.quick else DRAWS)
    rows: list[dict[str, Any]] = []
    for name in options.tasks or (("two_moons", "gaussian_linear") if options.quick else TASKS):
        task = load_task(name, options.data)
        with tempfile.TemporaryDirectory() as scratch:
            folder, size = Path(scratch), 2_000 if options.quick else 10_000
            store = simulate(task.simulator, folder / "simulations", size, seed=options.seed, progress=False)
            for estimator in options.estimators:
                rows += pair(estimator, task, store, options, compared, folder)
    checks = []
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        name = f"{ours['task']}, {ours['method']}"
        checks.append(check(f"{name}: C2ST above sbi's", ours["C2ST"] - theirs["C2ST"], 0.01))
        checks.append(check(f"{name}: seconds of draws / sbi's", ours["draws s"] / theirs["draws s"], 0.2))
    finish(rows, checks, options.json)


def pair(
    estimator: str, task: Task, store: Store, options: Any, compared: int, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row for ours and one for sbi's."""
    simulator, generator = task.simulator, torch.Generator().manual_seed(options.seed)
    kinds = {"Score": Score, "Matching": Matching}
    started = clock("cpu")
    built = kinds[estimator](simulator.prior, simulator.observables, seed=options.seed)
    posterior = build_posterior(train(built, store, folder / estimator, seed=options.seed))
    spent = clock("cpu") - started
    peer = train_peer(PEERS[estimator], simulator, store, options.seed, options.cache)

    def drawn(n: int, x: Tensor) -> Tensor:
        return posterior.sample((n,), x=x, generator=generator)

    def peers(n: int, x: Tensor) -> Tensor:
        return peer.posterior.sample((n,), x=x, show_progress_bars=False)

    shown = {"task": task.name, "simulations": len(store)}
    ours = {**shown, "method": estimator, "C2ST": _c2st(drawn, task, compared), "draws s": _seconds(drawn, task)}
    distance = peer.remembered(f"C2ST {compared}", lambda: _c2st(peers, task, compared))
    theirs = {**shown, "method": f"sbi {PEERS[estimator]}", "C2ST": distance, "draws s": _seconds(peers, task)}
    return {**ours, "training s": spent}, {**theirs, "training s": peer.cpu}


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
