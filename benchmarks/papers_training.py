"""How networks are trained: parts of `papers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, benchmark, check, clock

from sciinf import Fit, Flow, Recipe, load_simulator, simulate, train
from sciinf.core import Batch
from sciinf.flows.continuous import Continuous
from sciinf.nets.spectral import Fourier
from sciinf.surrogates import Stepwise

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
RUN = 200  # steps of a rollout


def rollouts(options: Any, out: Path) -> Found:
    """Errors of rollouts after 20, 50, 100 and 200 steps, of fresh starts."""
    rows, checks = [], []
    step, learned = 0.05, 20
    for name, told in (
        ("burgers", {"points": 64}),
        ("kuramoto_sivashinsky", {"points": 64, "length": 22.0}),
    ):
        kind = type(load_simulator(SIMULATORS / "pde" / f"{name}.py"))
        short = kind(times=tuple(step * k for k in range(learned + 1)), **told)
        long = kind(times=tuple(step * k for k in range(RUN + 1)), **told)
        store = simulate(short, out / name, 300 if options.quick else 1_500, seed=options.seed, progress=False)
        fresh = simulate(long, out / f"{name}_fresh", 32, seed=options.seed + 1, progress=False).load()
        ends = {}
        for way, noise in {
            "none": {},
            "one level": {"noise": 0.3},
            "random levels": {"noise": 0.6, "random": True},
            "random levels, some at use": {"noise": 0.6, "random": True, "at_use": 0.02},
        }.items():
            started = clock("cpu")
            surrogate = Stepwise(short.prior, short.observables, Fourier(12, 24, layers=3), moves=((1,),), **noise)
            recipe = Recipe(epochs=8 if options.quick else 30)
            fit = train(surrogate, store, out / f"{name}_{way}", recipe=recipe, progress=False)
            took, off = clock("cpu") - started, _off(fit, fresh)
            ends[way] = off[RUN]
            shown = {f"error {k}": off[k] for k in (20, 50, 100, RUN)}
            rows.append({"equation": name, "noise": way, **shown, "seconds": took})
        best = min(ends["random levels"], ends["random levels, some at use"])
        checks.append(check(f"rollouts: {name}, random levels / none, step {RUN}", best / ends["none"], 1.2))
    return rows, checks


def _off(fit: Fit, fresh: Batch) -> dict[int, float]:
    """Median relative error of each frame of a rollout."""
    with torch.no_grad():
        found = fit.surrogate.eval().rollout(fresh.theta, {"initial": fresh.x["initial"]}, RUN)
    truth = fresh.x["u"]
    error = ((found - truth).flatten(2).norm(dim=2) / truth.flatten(2).norm(dim=2)).nan_to_num(nan=1e9)
    return dict(enumerate(error.median(0).values.tolist()))


def solvers(options: Any, out: Path) -> Found:
    """Evaluations of densities, and the loss on fresh rows."""
    simulator = benchmark("two_moons")
    store = simulate(simulator, out / "s", 3_000 if options.quick else 10_000, seed=options.seed, progress=False)
    fresh = simulate(simulator, out / "fresh", 2_000, seed=options.seed + 1, progress=False).load()
    rows = []
    for way, told in {
        "none": {"penalty": 0.0},
        "local": {"penalty": 10.0},
        "sum": {"penalty": 10.0, "penalised": "sum"},
        "stiffness": {"penalty": 0.02, "penalised": "stiffness"},
    }.items():
        started, calls = clock("cpu"), list[int]()
        flow = Flow(simulator.prior, simulator.observables, flow=Continuous(**told))
        fit = train(flow, store, out / way, recipe=Recipe(epochs=20 if options.quick else 60), progress=False)
        took = clock("cpu") - started
        field = next(part for part in fit.estimator.modules() if type(part).__name__ == "_Field")
        field.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with torch.no_grad():
            log_q = fit.estimator.condition(fresh.x).log_prob(fresh.theta[None])[0]
        rows.append({"penalised": way, "evaluations": len(calls), "log q": float(log_q.mean()), "seconds": took})
    plain, *others = rows
    best = min(float(row["evaluations"]) for row in others if row["log q"] > plain["log q"] - 0.05) if others else 0.0
    return rows, [check("solvers: evaluations / none, log q within .05", best / plain["evaluations"], 0.9)]


def batches(options: Any, out: Path) -> Found:
    """Validation losses after each epoch, at three batches."""
    simulator = benchmark("two_moons")
    store = simulate(simulator, out / "s", 10_000, seed=options.seed, progress=False)
    small, rate, epochs = 32, 1e-3, 10 if options.quick else 14
    how: dict[str, Any] = {"epochs": epochs, "optimiser": "adamw", "ema": 0.0, "weight_decay": 0.05}
    how |= {"validate_every": 1, "patience": 99}
    curves: dict[tuple[str, int], list[float]] = {}
    for way in ("no rule", "rate", "rate, betas, epsilon"):
        for times in (1, 4, 16):
            share = times / 16  # the usual betas are the largest batch's: its memory is 640 rows' worth of steps
            told = {
                "learning_rate": rate if way == "no rule" else rate * share**0.5,
                "batches": share if way.endswith("epsilon") and times < 16 else None,
            }
            recipe = Recipe(batch=small * times, **how, **told)
            flow = Flow(simulator.prior, simulator.observables)
            fit = train(flow, store, out / f"{way}_{times}", recipe=recipe, seed=options.seed, progress=False)
            curves[way, times] = [row["validation_loss"] for row in fit.record["history"]]
    rows, gaps = [], {}
    for way in ("no rule", "rate", "rate, betas, epsilon"):
        parts = [abs(a - b) for k in (1, 4) for a, b in zip(curves[way, k], curves[way, 16], strict=True)]
        gaps[way] = max(parts)
        last = {f"last loss, x{k}": curves[way, k][-1] for k in (1, 4, 16)}
        rows.append({"rule": way, "largest gap": gaps[way], **last})
    name = "batches: largest gap of curves, rule / learning rate alone"
    return rows, [check(name, gaps["rate, betas, epsilon"] / gaps["rate"], 0.9)]
