"""Events in time: a part of `dynamics.py`.

"Hawkes": the weighted answer of a network, against a grid of the likelihood by its double sum. "Grasshopper": three
models of one cell's spikes, each at its most probable parameters given the first 600, tested on intervals that end in
the last 3 s; the answer of the last model, beside draws of a Student-t law around that point. Models were chosen with
the last 3 s in sight. So a second record of the same cell, under another sound, is asked as well: where DATA, the
folder of `--data`, has a wheel of nitime (`pip download --no-deps nitime==0.12.1 -d DATA`).
"""

from __future__ import annotations

import io
import math
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamics_school import moments
from reporting import SIMULATORS, Rows, check, clock
from torch import Tensor

from sciinf import Flow, build_posterior, load_simulator, simulate, train
from sciinf.core import LogNormal, Observable, Outcome, Prior, Simulator, Status, Uniform, X
from sciinf.core.simulator import load_module
from sciinf.diagnostics.rescaled import check_rescaled
from sciinf.networks.summaries import MLP
from sciinf.simulators.dynamics.points import Hawkes, rescaled

STOP, MOST, HIGHEST = 100.0, 1_000, 0.8  # s; events; events that one calls for
POINTS = 60  # of the grid, along each parameter
MODELS: dict[str, dict[str, float]] = {"no tiring": {"shift": 0.0, "growth": 0.0}, "threshold tires": {"growth": 0.0}}
MODELS |= {"recovery tires as well": {}}
P, LATE, END = 0.01, 7.0, 10.0


def events(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Each by itself."""
    rows, checks = hawkes(options, out / "hawkes")
    for part in (grasshopper, second_record):
        found = part(options, out / "grasshopper")
        rows, checks = rows + found[0], checks + found[1]
    return rows, checks


class Shocks(Simulator):
    """A Hawkes process over 100 s: times of events, 100 s where there is none, and what networks look at."""

    name = "shocks"
    prior = Prior(
        base=(LogNormal(math.log(0.5), 0.4), "1/s"),
        branching=Uniform(0.0, HIGHEST),
        decay=(LogNormal(math.log(2.0), 0.4), "1/s"),
    )
    observables: Mapping[str, Observable] = {
        "times": Observable((MOST,), "s", ("event",), dtype="float64"),
        "told": Observable((17,)),
    }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        times, mask = Hawkes(*theta.double().T).draw(0.0, STOP, generator=generator)
        many = mask.sum(1) > MOST
        times = torch.nn.functional.pad(times[:, :MOST], (0, max(MOST - times.shape[1], 0)), value=STOP)
        status = torch.where(many, int(Status.RAISED), 0).to(torch.uint8)
        return Outcome({"times": times, "told": _told(times)}, status)

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        times = x["times"].expand(len(theta), -1)
        longest = max(int((times < STOP).sum(1).max()), 1)
        times = times[:, :longest]
        return Hawkes(*theta.double().T).log_prob(times, times < STOP, 0.0, STOP)

    def rescaled(self, theta: Tensor, x: X) -> Tensor:
        times = x["times"].expand(len(theta), -1)
        return rescaled(Hawkes(*theta.double().T), times, times < STOP, 0.0)


def _told(times: Tensor) -> Tensor:
    """Numbers of events, quantiles of intervals, and how much events cluster, (row, 17)."""
    there = times < STOP
    number = there.sum(1, keepdim=True).double()
    away = torch.where(there[:, 1:], times.diff(dim=1), math.inf).sort(1).values
    shares = torch.tensor([0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9], dtype=torch.float64)
    place = ((number - 1).clamp_min(0) * shares).long()
    parts = [(number + 0.5).log(), (away.gather(1, place).clamp(max=STOP) + 1e-3).log()]
    for width in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
        size = math.ceil(STOP / width)
        bins = torch.where(there, (times / width).long(), size).clamp(max=size)
        counts = torch.zeros(len(times), size + 1, dtype=torch.float64).scatter_add(1, bins, there.double())[:, :-1]
        parts.append(((counts.var(1) + 0.01) / (counts.mean(1) + 0.01)).log()[:, None])
    near = (away < 0.1).sum(1, keepdim=True).double()
    return torch.cat([*parts, ((near + 0.5) / (number + 1)).log()], 1).float()


def hawkes(options: Any, out: Path) -> tuple[Rows, Rows]:
    """The answer against the grid, and a Poisson process in its place."""
    simulator = Shocks()
    truth = torch.tensor([[0.5, 0.6, 2.0]])
    x: Any = simulator(truth, generator=torch.Generator().manual_seed(options.seed + 11)).x
    started = clock("cpu")
    store = simulate(simulator, out / "store", 3_000 if options.quick else 10_000, seed=options.seed)
    estimator = Flow(
        simulator.prior, simulator.observables, summary={"times": MLP(features=4, hidden=(16,))}, seed=options.seed
    )
    fit: Any = train(estimator, store, out / "fit", seed=options.seed)
    learned = clock("cpu") - started
    draws = _drawn(build_posterior(fit, simulator, ess=4_000, budget=100_000), x, 4_000, options.seed)
    spent = clock("cpu") - started
    seen = x["times"][0]
    mean, sd, evidence = _grid(seen[seen < STOP].numpy())
    found = moments(draws.theta, draws.weights)
    wide = 2.0 if options.quick else 1.0
    rows = [
        _row("Hawkes", "grid", mean, sd) | {"log Z": evidence},
        _row("Hawkes", "weighted", *found)
        | {"log Z": draws.log_evidence, "ESS": draws.ess, "draws": len(draws), "CPU s": spent, "learned in": learned},
    ]
    checks = [
        check("Hawkes: worst mean off the grid's, in sds", float(((found[0] - mean) / sd).abs().max()), 0.1 * wide),
        check("Hawkes: worst sd off the grid's", float((found[1] / sd - 1).abs().max()), 0.1 * wide),
        check("Hawkes: log evidence off", abs(draws.log_evidence - evidence), 0.1),
    ]
    return rows, checks + _intervals(simulator, x, draws, options.seed)


def _intervals(simulator: Any, x: Any, draws: Any, seed: int) -> Rows:
    """What is said of intervals by the answer, and by that of a Poisson process."""
    g = torch.Generator().manual_seed(seed)
    theta = draws.resample(400, generator=g)
    (right,) = check_rescaled(simulator, x, theta, simulator(theta, generator=g).x)
    x = simulator(torch.tensor([[0.5, 0.75, 3.0]]), generator=torch.Generator().manual_seed(seed + 12)).x
    count = int((x["times"] < STOP).sum())  # of stronger shocks
    rate = -torch.rand(400, count, generator=g, dtype=torch.float64).log().sum(1) / STOP
    plain = torch.stack([rate, torch.zeros(400), torch.ones(400)], 1)
    (wrong,) = check_rescaled(simulator, x, plain, simulator(plain, generator=g).x)
    return [
        check(f"Hawkes: its intervals ({right.level})", float(right.level != "good"), 0.0),
        check(
            f"Hawkes: those of a Poisson process ({wrong.level}; a planted fault)", float(wrong.level != "alarm"), 0.0
        ),
    ]


def _grid(times: np.ndarray) -> tuple[Tensor, Tensor, float]:
    """Mean and sd of base, branching and decay, and the evidence, by the double sum; nothing of sciinf is in it."""
    from scipy import stats

    z = (np.arange(POINTS) + 0.5) * (9.0 / POINTS) - 4.5
    base, branching, decay = 0.5 * np.exp(0.4 * z), HIGHEST * stats.norm.cdf(z), 2.0 * np.exp(0.4 * z)
    apart = times[:, None] - times[None]
    log = np.empty((POINTS,) * 3)
    for k, b in enumerate(decay):
        called = np.where(apart > 0, b * np.exp(-b * np.maximum(apart, 0.0)), 0.0).sum(1)
        later = (1 - np.exp(-b * (STOP - times))).sum()
        for j, eta in enumerate(branching):
            log[:, j, k] = np.log(base[:, None] + eta * called).sum(1) - base * STOP - eta * later
    prior = stats.norm.logpdf(z) + np.log(9.0 / POINTS)
    log += prior[:, None, None] + prior[:, None] + prior
    top = log.max()
    weight = np.exp(log - top)
    total = weight.sum()
    margins = [weight.sum(axes) / total for axes in ((1, 2), (0, 2), (0, 1))]
    mean = [float(m @ v) for m, v in zip(margins, (base, branching, decay), strict=True)]
    sd = [float(np.sqrt(m @ (v - c) ** 2)) for m, v, c in zip(margins, (base, branching, decay), mean, strict=True)]
    return torch.tensor(mean), torch.tensor(sd), float(top + np.log(total))


def grasshopper(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Three models at their peaks, and the answer of the last."""
    simulator: Any = load_simulator(SIMULATORS / "grasshopper.py")
    parts: Any = sys.modules[type(simulator).__module__]
    spikes = parts.read(SIMULATORS / "grasshopper_spikes.csv")
    rows, checks = _models(simulator, parts, spikes, "first record")
    if options.quick:
        return rows, checks
    found = _answered(simulator, parts, options, out)
    return rows + found[0], checks + found[1]


def second_record(options: Any, out: Path) -> tuple[Rows, Rows]:
    """The same models of a record that chose none of them."""
    wheels = sorted(options.data.glob("nitime-*.whl"))
    if not wheels:
        return [{"second record": f"there is no wheel of nitime in {options.data.name}"}], []
    with zipfile.ZipFile(wheels[-1]) as wheel:
        named = "nitime/data/grasshopper_{}2.txt"
        level = np.loadtxt(io.BytesIO(wheel.read(named.format("stimulus"))))[:, 1]
        spikes = np.loadtxt(io.BytesIO(wheel.read(named.format("spike_times")))) / 1e3
    decibels = 20 * np.log10(level)
    wave = np.fft.rfft(decibels - decibels.mean())
    coarse = np.fft.irfft(wave[:10_001], n=20_000) * (20_000 / len(level))  # 2,000 values in a second
    parts: Any = sys.modules[type(load_simulator(SIMULATORS / "grasshopper.py")).__module__]
    return _models(parts.Grasshopper(torch.from_numpy(coarse)), parts, torch.from_numpy(spikes), "second record")


def _models(simulator: Any, parts: Any, spikes: Tensor, record: str) -> tuple[Rows, Rows]:
    rows, checks = [], []
    x = simulator.told(parts.first(spikes))
    for name, fixed in MODELS.items():
        started = clock("cpu")
        theta, log = peak(simulator, x, fixed)
        p, count = late_p(simulator, theta, spikes)
        told = {"log density": log, "intervals": count, "p of their law": p, "CPU s": clock("cpu") - started}
        rows.append({"grasshopper": record, "model": name} | told)
        last = name == list(MODELS)[-1]
        bound = (P / p, f"{record}: 0.01 / p of the last 3 s") if last else (p / P, f"{record}: p / 0.01 of '{name}'")
        checks.append(check(bound[1] + ("" if last else " (a model that lacks something)"), bound[0], 1.0))
    return rows, checks


def peak(simulator: Any, x: Any, fixed: Mapping[str, float]) -> tuple[Tensor, float]:
    """The most probable parameters in z, some of them fixed, (1, 10), and the log density there."""
    from scipy import optimize

    names, bijection = simulator.prior.names, simulator.prior.bijection
    free = torch.tensor([float(name not in fixed) for name in names], dtype=torch.float64)
    rest = torch.tensor([fixed.get(name, 0.0) for name in names], dtype=torch.float64)

    def density(z: Tensor) -> Tensor:
        theta = torch.where(free > 0, bijection.inverse(z[None]), rest)
        return simulator.log_likelihood(theta, x).sum() - 0.5 * (free * z).square().sum()

    def steep(v: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.tensor(0.1 * v, requires_grad=True)
        value = density(z)
        if not bool(value.isfinite()):
            return 1e7, np.zeros(len(v))
        value.backward()
        return -float(value.detach()), -0.1 * np.asarray(z.grad)

    start = bijection.forward(_start(simulator)).flatten()
    best = optimize.minimize(steep, 10 * start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 150})
    z = torch.from_numpy(0.1 * best.x)
    return torch.where(free > 0, bijection.inverse(z[None]), rest), -float(best.fun)


def _start(simulator: Any) -> Tensor:
    """Where a search begins: a cell that recovers sooner than the shortest interval."""
    given = {"rate": 2_000.0, "threshold": 4.0, "shift": 0.5, "width": 2.0, "latency": 6.5, "smoothing": 0.5}
    given |= {"share": 0.5, "memory": 10.0, "refractory": 2.5, "growth": 0.2}
    return torch.tensor([[given[name] for name in simulator.prior.names]], dtype=torch.float64)


def late_p(simulator: Any, theta: Tensor, spikes: Tensor) -> tuple[float, int]:
    """Kolmogorov and Smirnov's p of intervals that end in the last 3 s, by places in cells at random; how many."""
    from scipy import stats

    times, late = spikes[None], spikes >= 1e3 * LATE
    process = simulator.process(theta, END)
    u = process.rescaled(times, torch.ones_like(times, dtype=torch.bool), generator=torch.Generator().manual_seed(0))
    return float(stats.kstest(u[0, late].numpy(), "uniform").pvalue), int(late.sum())


def _answered(simulator: Any, parts: Any, options: Any, out: Path) -> tuple[Rows, Rows]:
    """The pipeline's answer beside draws around the peak."""
    pipeline = load_module(SIMULATORS.parent / "pipelines" / "grasshopper.py")
    started = clock("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = pipeline.run(out, seed=options.seed)
    spent = clock("cpu") - started
    draws: Any = answer.draws
    spikes = parts.read(SIMULATORS / "grasshopper_spikes.csv")
    x = simulator.told(parts.first(spikes))
    started = clock("cpu")
    mean, sd, ess = around_peak(simulator, x, peak(simulator, x, {})[0], options.seed)
    around = clock("cpu") - started
    found = moments(draws.theta, draws.weights)
    names = simulator.prior.names
    rows = [
        {"grasshopper": "answer", "by": "network and weights"}
        | {n: f"{m:.3g} +- {s:.2g}" for n, m, s in zip(names, *map(Tensor.tolist, found), strict=True)}
        | {"ESS": draws.ess, "CPU s": spent},
        {"grasshopper": "answer", "by": "draws around the peak"}
        | {n: f"{m:.3g} +- {s:.2g}" for n, m, s in zip(names, mean.tolist(), sd.tolist(), strict=True)}
        | {"ESS": ess, "CPU s": around},
    ]
    p = float(
        np.median(
            [
                late_p(simulator, theta[None], spikes)[0]
                for theta in draws.resample(50, generator=torch.Generator().manual_seed(options.seed))
            ]
        )
    )
    said = {c.name: c.level for c in answer.checks}
    return rows, [
        check(
            "grasshopper: worst mean off draws around the peak, in sds",
            float(((found[0] - mean) / sd).abs().max()),
            0.15,
        ),
        check("grasshopper: worst sd off", float((found[1] / sd - 1).abs().max()), 0.15),
        check(f"grasshopper: 0.01 / p of the last 3 s, median of draws ({p:.2g})", P / p, 1.0),
        check(
            f"grasshopper: what the answer says of intervals ({said.get('intervals')})",
            float(said.get("intervals") != "good"),
            0.0,
        ),
    ]


def around_peak(simulator: Any, x: Any, theta: Tensor, seed: int, count: int = 4_000) -> tuple[Tensor, Tensor, float]:
    """Mean, sd and effective size of draws of a Student-t law in z, weighted by the exact density."""
    bijection, g = simulator.prior.bijection, torch.Generator().manual_seed(seed + 3)
    centre = bijection.forward(theta)[0]

    def density(z: Tensor) -> Tensor:
        return simulator.log_likelihood(bijection.inverse(z), x).double() - 0.5 * z.square().sum(-1)

    def slope(z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        return torch.autograd.grad(density(z[None]).sum(), z)[0]

    step = 1e-3 * torch.eye(len(centre), dtype=torch.float64)
    curve = -torch.stack([(slope(centre + e) - slope(centre - e)) / 2e-3 for e in step])
    factor = torch.linalg.cholesky(torch.linalg.inv((curve + curve.T) / 2))
    normal = torch.randn(count, len(centre), generator=g, dtype=torch.float64)
    freedom = 8
    chi = torch.randn(count, freedom, generator=g, dtype=torch.float64).square().sum(1, keepdim=True) / freedom
    z = centre + (1.1 * normal / chi.sqrt()) @ factor.T
    distance = ((normal / chi.sqrt()) * 1.1).square().sum(1) / 1.1**2
    law = -0.5 * (freedom + len(centre)) * torch.log1p(distance / freedom)
    weight = (density(z) - law).nan_to_num(-math.inf).softmax(0)
    mean, sd = moments(bijection.inverse(z), weight)
    return mean, sd, float(1 / weight.square().sum())


def _row(name: str, answer: str, mean: Tensor, sd: Tensor) -> dict[str, Any]:
    found = zip(Shocks.prior.names, mean.tolist(), sd.tolist(), strict=True)
    row = {name: answer} | {n: f"{m:.3f} +- {s:.3f}" for n, m, s in found}
    return row | dict.fromkeys(("log Z", "ESS", "draws", "CPU s", "learned in"), "-")


def _drawn(posterior: Any, x: Any, n: int, seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return posterior.draw(x, n, generator=torch.Generator().manual_seed(seed))
