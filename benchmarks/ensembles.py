"""What an ensemble of five costs beside one network, and what it does for coverage.

    python benchmarks/ensembles.py             eight tasks, 1,000 simulations
    python benchmarks/ensembles.py --quick     two tasks
    python benchmarks/ensembles.py --only shares    the table of shares alone
    python benchmarks/ensembles.py --only three     three members beside one, against reference posteriors

Five members trained at once (`train_ensemble`) and each alone, on the same 1,000 simulations with the default recipe.
"coverage error" is the distance between the nominal and the found coverage of highest-density regions, averaged over
levels, on fresh simulations: for one, the mean of the five; it is in probability, and negative where regions are too
small on average. The cost of a step is that of 1,000 rows, in CPU seconds on a CPU and wall seconds on a GPU.

Shares (`diagnostics.members`): of the linear Gaussian model, whose posterior is known, how much of an ensemble's
variance is between its five members, their variance were there many ("unbiased"), and their mean squared error, all in
the posterior's variances, over 40 observations. Members of one store share what it lacks: the error is larger.

Three: C2ST to the reference posterior (mean over observations), NLL on fresh simulations and CPU seconds of an ensemble
of three and of its first member, trained alone, and both with 3 % of their draws from the prior.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against_sbi import load_task
from reporting import SIMULATORS, TASKS, arguments, benchmark, check, clock, finish, table
from sbi_peer import c2st

from sciinf import Flow, Recipe, Simulator, build_posterior, calibrate, load_simulator, simulate, train_ensemble
from sciinf import train as train_one
from sciinf.core import Calibration, Posterior
from sciinf.diagnostics.members import network_share

MEMBERS = 5
SIMULATIONS, FRESH = 1_000, 2_000
TIMED = 20_000  # simulations of the timed trainings: 18 steps of 1,000 rows an epoch


def main() -> None:
    """Run all tasks."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--only", choices=("shares", "three"), help="one table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only == "three":
        rows = [three(name, options.data, seed) for name in options.tasks or TASKS for seed in range(2)]
        print(table(rows))
        return finish(rows, [], options.json)
    shared = [shares(n, seed) for n in ((500,) if options.quick else (500, 2_000, 8_000)) for seed in range(2)]
    if options.only:
        return finish(shared, [], options.json)
    names = options.tasks or (TASKS[:2] if options.quick else TASKS)
    rows = []
    for name in names:
        simulator = benchmark(name)
        with tempfile.TemporaryDirectory() as scratch:
            row = {"task": name, **coverage(simulator, Path(scratch), options.seed, options.device)}
            rows.append({**row, **cost(simulator, Path(scratch), options.device)})
        print(rows[-1], flush=True)
    most = 5.0 if torch.device(options.device).type == "cpu" else 2.0  # compiled steps leave little to share
    ratio = float(np.exp(np.mean(np.log([row["cost of five"] for row in rows]))))
    one, five = (float(np.mean([row[f"coverage error of {which}"] for row in rows])) for which in ("one", "five"))
    checks = [
        check("cost of five over one (geometric mean)", ratio, most),
        check("mean coverage error of five, against that of one", five, one),
    ]
    return finish(rows + shared, checks, options.json)


def shares(simulations: int, seed: int) -> dict[str, float]:
    """What members of an ensemble differ by, beside what they are off by."""
    simulator: Any = load_simulator(SIMULATORS / "linear_gaussian.py")
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(simulator, Path(folder) / "simulations", simulations, seed=seed, progress=False)
        fits = train_ensemble(_estimators(simulator), store, Path(folder) / "fit", seed=seed)
        generator = torch.Generator().manual_seed(5 + seed)
        x = simulator(simulator.prior.sample(40, generator=generator), generator=generator)
        exact, covariance = simulator.exact(x)
        means = torch.stack([build_posterior(f).draw_batched(x, 2_000, generator=generator).mean(0) for f in fits])
        ensemble: Any = build_posterior(fits)
        rows = [{name: value[i : i + 1] for name, value in x.items()} for i in range(40)]
        found = torch.cat([network_share(ensemble, row, generator=generator) for row in rows])
    variance = covariance.diagonal()
    return {
        "simulations": simulations,
        "share, median": float(found.median()),
        "unbiased": float((means.double().var(0) / variance).mean()),
        "squared error": float(((means - exact).double().square() / variance).mean()),
    }


def three(name: str, data: Path, seed: int) -> dict[str, Any]:
    """Three members beside one.

    Args:
        name: Of a task.
        data: The folder of reference posteriors.
        seed: Of everything.
    """
    task = load_task(name, data)
    simulator, found = task.simulator, dict[str, Any](task=name, seed=seed)
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        store = simulate(simulator, folder / "s", SIMULATIONS, seed=seed, progress=False)
        fresh = simulate(simulator, folder / "fresh", FRESH, seed=seed + 1_000, progress=False).load()
        flows = [Flow(simulator.prior, simulator.observables, seed=3 * seed + k) for k in range(3)]
        ways: dict[str, Any] = {
            "one": lambda: train_one(flows[0], store, folder / "one", seed=seed),
            "three": lambda: train_ensemble(flows, store, folder / "three", seed=seed),
        }
        for way, train in ways.items():
            started = clock("cpu")
            fits = train()
            found[f"CPU s of {way}"] = clock("cpu") - started
            posterior = build_posterior(fits)
            found[f"NLL of {way}"] = -float(posterior.log_prob_batched(fresh.theta[None], fresh.x).mean())
            for share, said in ((0.0, ""), (0.03, " and 3 %")):
                found[f"C2ST of {way}{said}"] = _c2st(posterior, task, seed, share)
    print(found, flush=True)
    return found


def _c2st(posterior: Posterior, task: Any, seed: int, share: float) -> float:
    """The mean over observations, with a share of the draws from the prior in the place of the posterior's."""
    errors, generator = [], torch.Generator().manual_seed(seed)
    for x, reference in zip(task.observations, task.references, strict=True):
        theta = posterior.draw({"x": x[None]}, FRESH, generator=generator).theta
        theta[: int(share * FRESH)] = task.simulator.prior.sample(int(share * FRESH), generator=generator)
        errors.append(c2st(theta, reference[:FRESH]))
    return float(np.mean(errors))


def coverage(simulator: Simulator, folder: Path, seed: int, device: str) -> dict[str, Any]:
    """Coverage and NLL on fresh simulations of an ensemble and of its members."""
    store = simulate(simulator, folder / "simulations", SIMULATIONS, seed=seed, progress=False)
    fresh = simulate(simulator, folder / "fresh", FRESH, seed=seed + 1_000, progress=False)
    fits = train_ensemble(_estimators(simulator), store, folder / "ensemble", recipe=Recipe(device=device), seed=seed)
    posteriors = [build_posterior(fits), *(build_posterior(fit) for fit in fits)]
    found = [calibrate(posterior, fresh, rows=FRESH, seed=seed) for posterior in posteriors]
    held = fresh.load()
    nll = [-float(p.log_prob_batched(held.theta[None], held.x).mean()) for p in posteriors]
    errors, signed = [_error(c) for c in found], [float(np.mean(c.coverage - c.levels)) for c in found]
    return {
        "coverage error of one": float(np.mean(errors[1:])),
        "coverage error of five": errors[0],
        "bias of one": float(np.mean(signed[1:])),
        "bias of five": signed[0],
        "NLL of one": float(np.mean(nll[1:])),
        "NLL of five": nll[0],
    }


def cost(simulator: Simulator, folder: Path, device: str) -> dict[str, float]:
    """Seconds of training five at once over those of training one, at 1,000 rows a step."""
    store = simulate(simulator, folder / "timed", TIMED, seed=1, progress=False)
    recipe = Recipe(batch=1_000, epochs=4, device=device)
    five, one = _estimators(simulator), _estimators(simulator)[0]
    ones, fives = [], []
    for round_ in range(3):
        ones.append(_timed(lambda r=round_: train_one(one, store, folder / f"one_{r}", recipe=recipe), device))
        fives.append(_timed(lambda r=round_: train_ensemble(five, store, folder / f"five_{r}", recipe=recipe), device))
    return {"s for one": min(ones), "s for five": min(fives), "cost of five": min(fives) / min(ones)}


def _estimators(simulator: Simulator) -> list[Flow]:
    return [Flow(simulator.prior, simulator.observables, seed=seed) for seed in range(MEMBERS)]


def _error(found: Calibration) -> float:
    return float(np.mean(np.abs(found.coverage - found.levels)))


def _timed(call: Any, device: str) -> float:
    started = clock(device)
    call()
    return clock(device) - started


if __name__ == "__main__":
    main()
