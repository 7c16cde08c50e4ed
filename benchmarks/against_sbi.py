"""sciinf and sbi's NPE (nsf) on the same simulations: training time, held-out NLL, C2ST against reference posteriors.

    python benchmarks/against_sbi.py              two moons and SLCP, 10,000 simulations, three seeds
    python benchmarks/against_sbi.py --quick      1,000 simulations, one seed

C2ST is sbi's own classifier test (five folds, equal sizes); 0.5 is perfect. CPU seconds are this process's, one thread.
sbi's results are kept in `--cache` by task, seed, budget, versions and machine, as they never change.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import arguments, check, finish
from torch import Tensor
from torch import distributions as td

from sciinf import Flow, Simulator, Store, build_posterior, load_simulator, simulate, train
from sciinf.core.files import versions

SIMULATORS = Path(__file__).parent.parent / "simulators" / "benchmarks"
HELD_OUT = 5_000


@dataclass(frozen=True)
class Task:
    """A benchmark task with its reference posteriors."""

    name: str
    simulator: Simulator
    observations: list[Tensor]
    references: list[Tensor]


def main() -> None:
    """Run the comparison."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["two_moons", "slcp"])
    parser.add_argument("--simulations", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=None, help="number of seeds, counted from --seed")
    parser.add_argument("--draws", type=int, default=None, help="posterior draws in a C2ST")
    parser.add_argument("--cache", type=Path, default=Path("runs/against_sbi"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="sbi")
    budget = options.simulations or (1_000 if options.quick else 10_000)
    draws = options.draws or (2_000 if options.quick else 10_000)
    seeds = options.seeds or (1 if options.quick else 3)
    rows = []
    for name in options.tasks:
        task = load_task(name, options.data)
        for seed in range(options.seed, options.seed + seeds):
            rows.append(compare(task, budget, seed, draws, options.cache))
            print(json.dumps(rows[-1]), flush=True)
    finish(rows, _checks(rows), options.json)


def load_task(name: str, data: Path) -> Task:
    """A task's simulator, first three observations and 10,000 reference draws each."""
    simulator = load_simulator(SIMULATORS / f"{name}.py")
    observations, references = [], []
    for number in (1, 2, 3):
        folder = data / "sbibm" / name / str(number)
        observations.append(simulator.observe(folder / "observation.csv")["x"])
        reference = np.loadtxt(folder / "reference_posterior_samples.csv.bz2", delimiter=",", skiprows=1)
        references.append(torch.as_tensor(reference, dtype=torch.float32))
    return Task(name, simulator, observations, references)


def compare(task: Task, budget: int, seed: int, draws: int, cache: Path) -> dict[str, Any]:
    """One row: both methods on the same simulations."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = simulate(task.simulator, folder / "simulations", budget, seed=seed, progress=False)
        fresh = simulate(task.simulator, folder / "held_out", HELD_OUT, seed=seed + 1_000, progress=False)
        ours = run_sciinf(task, store, fresh, seed, draws, folder)
        key = f"{task.name} {store.digest} {seed} {draws} {versions()['sbi']} {versions()['torch']} {platform.node()}"
        kept = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        cached = kept.is_file()
        if cached:
            theirs = json.loads(kept.read_text())
        else:
            theirs = run_sbi(task, store, fresh, seed, draws, folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(theirs))
    row: dict[str, Any] = {"task": task.name, "simulations": budget, "seed": seed}
    for name in ours:
        row[f"sciinf {name}"], row[f"sbi {name}"] = ours[name], theirs[name]
    row["CPU ratio"] = theirs["CPU s"] / ours["CPU s"]
    row["sbi's figures"] = "cached" if cached else "new"
    return row


def run_sciinf(task: Task, store: Store, fresh: Store, seed: int, draws: int, folder: Path) -> dict[str, float]:
    """Train with the default recipe; figures of the amortised posterior."""
    started, wall = time.process_time(), time.perf_counter()
    fit = train(Flow(task.simulator.prior, task.simulator.observables, seed=seed), store, folder / "fit", seed=seed)
    figures = {"CPU s": time.process_time() - started, "wall s": time.perf_counter() - wall}
    posterior = build_posterior(fit)
    held_out = fresh.load()
    figures["NLL"] = -float(posterior.log_prob_batched(held_out.theta[None], held_out.x).mean())
    generator = torch.Generator().manual_seed(seed)
    started = time.process_time()
    samples = [posterior.sample((draws,), x=x, generator=generator) for x in task.observations]
    figures["draws/s"] = draws * len(samples) / (time.process_time() - started)
    figures["C2ST"] = float(np.mean([c2st(s, r) for s, r in zip(samples, task.references, strict=True)]))
    return figures


def run_sbi(task: Task, store: Store, fresh: Store, seed: int, draws: int, folder: Path) -> dict[str, float]:
    """sbi's NPE with its neural spline flow and its defaults."""
    from sbi.inference import NPE
    from sbi.utils.tracking import TensorBoardTracker
    from torch.utils.tensorboard import SummaryWriter

    batch, held_out = store.load(), fresh.load()
    torch.manual_seed(seed)
    started, wall = time.process_time(), time.perf_counter()
    tracker = TensorBoardTracker(SummaryWriter(str(folder / "sbi-logs")))  # its default writes into the working folder
    prior = sbi_prior(task.simulator)
    inference = NPE(prior=prior, density_estimator="nsf", show_progress_bars=False, tracker=tracker)
    estimator = inference.append_simulations(batch.theta, batch.x["x"]).train()
    figures = {"CPU s": time.process_time() - started, "wall s": time.perf_counter() - wall}
    posterior = inference.build_posterior()
    with torch.no_grad():
        log_prob = [
            estimator.log_prob(held_out.theta[None, i : i + 1000], condition=held_out.x["x"][i : i + 1000])[0]
            for i in range(0, len(held_out), 1000)
        ]
    figures["NLL"] = -float(torch.cat(log_prob).mean())
    started = time.process_time()
    samples = [posterior.sample((draws,), x=x, show_progress_bars=False) for x in task.observations]
    figures["draws/s"] = draws * len(samples) / (time.process_time() - started)
    figures["C2ST"] = float(np.mean([c2st(s, r) for s, r in zip(samples, task.references, strict=True)]))
    return figures


def sbi_prior(simulator: Simulator) -> td.Distribution:
    """The simulator's prior as sbi takes it."""
    from sbi.utils import BoxUniform, MultipleIndependent

    laws = simulator.prior.laws
    boxes = [law for law in laws if isinstance(law, td.Uniform)]
    if len(boxes) == len(laws):
        return BoxUniform(torch.stack([law.low for law in boxes]), torch.stack([law.high for law in boxes]))
    if len(laws) == 1:
        return laws[0]
    return MultipleIndependent([law.expand((1,)) for law in laws], validate_args=False)


def c2st(a: Tensor, b: Tensor) -> float:
    """sbi's classifier two-sample test on equal numbers of draws."""
    from sbi.utils.metrics import c2st as test

    n = min(len(a), len(b))
    return float(test(a[:n], b[:n]))


def _checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    excess = {}
    for row in rows:
        excess.setdefault(row["task"], []).append(row["sciinf C2ST"] - row["sbi C2ST"])
    checks = [check(f"{task}: C2ST above sbi's", float(np.mean(e)), 0.02) for task, e in excess.items()]
    mean = float(np.mean([e for values in excess.values() for e in values]))
    return [check("mean C2ST above sbi's", mean, 0.01), *checks]


if __name__ == "__main__":
    main()
