"""How networks are trained: parts of `papers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from reporting import SIMULATORS, benchmark, check, clock
from torch import Tensor

from sciinf import Flow, Observable, Prior, Recipe, Simulator, load_simulator, simulate, train
from sciinf.core import Batch, Fit, X
from sciinf.emulators import LatentDynamics, Stepwise
from sciinf.emulators.processes import NeuralSDE
from sciinf.networks.flows.continuous import Continuous
from sciinf.networks.ode import rk4
from sciinf.networks.spectral import Fourier

Rows = list[dict[str, Any]]
Found = tuple[Rows, Rows]
RUN = 200  # steps of a rollout
WITHIN = 0.05  # nats of log likelihood that count as equal


def rollouts(options: Any, out: Path) -> Found:
    """Errors of rollouts after 20, 50, 100 and 200 steps, of fresh starts."""
    rows, checks = [], []
    for name, step, told in (
        ("burgers", 0.01, {"points": 64}),
        ("kuramoto_sivashinsky", 0.1, {"points": 64, "length": 22.0}),
    ):
        kind: Any = type(load_simulator(SIMULATORS / "pde" / f"{name}.py"))
        simulator = kind(times=tuple(step * k for k in range(RUN + 1)), **told)
        store = simulate(simulator, out / name, 50 if options.quick else 100, seed=options.seed, progress=False)
        fresh = simulate(simulator, out / f"{name}_fresh", 32, seed=options.seed + 1, progress=False).load()
        ends = {}
        for way, noise in {
            "none": {},
            "one level": {"noise": 0.3},
            "random levels": {"noise": 0.6, "random": True},
            "random levels, some at use": {"noise": 0.6, "random": True, "at_use": 0.02},
        }.items():
            started = clock("cpu")
            network = Fourier(12, 16, layers=3)
            surrogate = Stepwise(simulator.prior, simulator.observables, network, moves=((1,),), **noise)
            recipe = Recipe(epochs=60 if options.quick else 80, batch=10)
            fit = train(surrogate, store, out / f"{name}_{way}", recipe=recipe, progress=False)
            took, off = clock("cpu") - started, _off(fit, fresh)
            ends[way] = off[RUN]
            shown = {f"error {k}": off[k] for k in (20, 50, 100, RUN)}
            rows.append({"equation": name, "noise": way, **shown, "seconds": took})
        for other in ("none", "one level"):
            best = min(ends["random levels"], ends["random levels, some at use"]) / ends[other]
            checks.append(check(f"rollouts: {name}, random levels / {other}, step {RUN}", best, 1.2))
    return rows, checks


def _off(fit: Fit, fresh: Batch) -> dict[int, float]:
    """Median relative error of each frame of a rollout; infinite where most of them are not finite."""
    surrogate: Any = fit.surrogate
    with torch.no_grad():
        found = surrogate.eval().rollout(fresh.theta, {"initial": fresh.x["initial"]}, RUN)
    truth = fresh.x["u"]
    error = (found - truth).flatten(2).norm(dim=2) / truth.flatten(2).norm(dim=2)
    error = torch.where(error.isfinite(), error, torch.inf)
    return dict(enumerate(error.median(0).values.tolist()))


def _saved(rows: Rows) -> float:
    """The fewest evaluations with a penalty at about the likelihood without one, over those without."""
    plain, *others = rows
    good = [float(row["evaluations"]) for row in others if row["log q"] > plain["log q"] - WITHIN]
    return min(good, default=float("inf")) / plain["evaluations"]


def solvers(options: Any, out: Path) -> Found:
    """Evaluations of a flow's field for densities of 2,000 rows at once, and their mean log density."""
    simulator, rows = benchmark("two_moons"), []
    store = simulate(simulator, out / "s", 3_000 if options.quick else 10_000, seed=options.seed, progress=False)
    fresh = simulate(simulator, out / "fresh", 2_000, seed=options.seed + 1, progress=False).load()
    for way, told in {
        "none": {"penalty": 0.0},
        "local": {"penalty": 10.0},
        "sum": {"penalty": 10.0, "penalised": "sum"},
        "stiffness": {"penalty": 0.01, "penalised": "stiffness"},
    }.items():
        started, calls = clock("cpu"), list[int]()
        flow = Flow(simulator.prior, simulator.observables, flow=Continuous(**told))
        fit = train(flow, store, out / way, recipe=Recipe(epochs=12), progress=False)
        took = clock("cpu") - started
        field = next(part for part in fit.estimator.modules() if type(part).__name__ == "_Field")
        field.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        law: Any = fit.estimator.condition(fresh.x)
        with torch.no_grad():
            log_q = law.log_prob(fresh.theta[None])[0]
        row = {"penalised": way, "evaluations": len(calls)}
        rows.append({**row, "log q": float(log_q.mean()), "seconds": took})
    return rows, [check(f"solvers: evaluations / without, log q within {WITHIN}", _saved(rows), 1.0)]


@final
class Relaxing(Simulator):
    """The oscillator of van der Pol, mu = 3, at 16 times in (0, 6), both of its numbers seen with noise."""

    name = "relaxing"
    prior = Prior.none()
    observables = {"x": Observable((16, 2), dims=("time", "channel"))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        """See `Simulator`."""
        start = torch.randn(len(theta), 2, generator=generator)
        path = rk4(relax, start, torch.linspace(0.0, 6.0, 16).tolist(), steps_per_interval=20).movedim(0, 1)
        return {"x": path + 0.05 * torch.randn(path.shape, generator=generator)}


def relax(t: Any, y: Tensor) -> Tensor:
    """Rate of change of (place, speed)."""
    place, speed = y.unbind(-1)
    return torch.stack([speed, 3.0 * (1 - place.square()) * speed - place], -1)


def drifts(options: Any, out: Path) -> Found:
    """Evaluations for the paths of 200 starts by the learned drift alone, and the bound of fresh series, per time."""
    simulator, rows = Relaxing(), []
    store = simulate(simulator, out / "s", 150 if options.quick else 200, seed=options.seed, progress=False)
    fresh = simulate(simulator, out / "fresh", 200, seed=options.seed + 1, progress=False).load()
    for way, told in {
        "none": {},
        "sum": {"penalty": 1_000.0},
        "stiffness": {"penalty": 1.0, "penalised": "stiffness"},
    }.items():
        started, process = clock("cpu"), NeuralSDE(2, steps=2, scales=(1.0, 2.0), **told)
        made = LatentDynamics(simulator.prior, simulator.observables, process, columns=(0, 1))
        recipe = Recipe(epochs=15 if options.quick else 25, batch=30)
        fit = train(made, store, out / way, recipe=recipe, progress=False)
        took = clock("cpu") - started
        learned: Any = fit.surrogate.eval()
        with torch.no_grad():
            own = torch.Generator().manual_seed(0)
            bound = learned.bound(fresh.theta, fresh.x, generator=own).mean() / 16
        row = {"penalised": way, "evaluations": _asked(learned, fresh)}
        rows.append({**row, "log q": float(bound), "seconds": took})
    return rows, [check(f"drifts: evaluations / without, bound within {WITHIN}", _saved(rows), 1.0)]


def _asked(learned: Any, fresh: Batch) -> int:
    """How often Dormand and Prince's pair asks the drift for the paths from the first values on, in float64."""
    from torchdiffeq import odeint

    series, process, calls = learned.series(fresh.theta, fresh.x), learned.process.double(), list[int]()

    def rate(t: Tensor, z: Tensor) -> Tensor:
        calls.append(1)
        return process.drift(z, series, 0, t.expand(len(z)))

    start = fresh.x["x"][:, 0].double() / process.scales
    with torch.no_grad():
        odeint(rate, start, torch.tensor([0.0, 15.0]).double(), method="dopri5", rtol=1e-6, atol=1e-6)
    return len(calls)


def batches(options: Any, out: Path) -> Found:
    """Validation losses after each epoch, at three batches."""
    simulator, ways = benchmark("two_moons"), ("no rule", "rate", "rate, betas, epsilon, decay")
    count, epochs = (1_000, 6) if options.quick else (1_500, 8)
    store = simulate(simulator, out / "s", count, seed=options.seed, progress=False)
    rows, gaps = [], {}
    for way in ways:
        curves = {}
        for times in (1, 4, 16):
            recipe = Recipe(
                batch=4 * times,
                batch_scaling="rule" if way == ways[2] else None,
                learning_rate=8e-3 if way == ways[0] else None,  # else: 8e-3 for the usual batch
                epochs=epochs,
                validate_every=1,
                patience=epochs,
            )
            flow = Flow(simulator.prior, simulator.observables)
            fit = train(flow, store, out / f"{way}_{times}", recipe=recipe, seed=options.seed, progress=False)
            curves[times] = [row["validation_loss"] for row in fit.record["history"]]
        apart = [max(losses) - min(losses) for losses in zip(*curves.values(), strict=True)]
        gaps[way] = max(apart)
        last = {f"last loss, x{times}": curve[-1] for times, curve in curves.items()}
        rows.append({"rule": way, "largest gap": gaps[way], "from the third epoch on": max(apart[2:]), **last})
    return rows, [check(f"batches: largest gap, all / {way}", gaps[ways[2]] / gaps[way], 1.0) for way in ways[:2]]
