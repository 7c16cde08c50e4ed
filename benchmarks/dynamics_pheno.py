"""Phenobarbital in 59 newborns, real: a part of `dynamics.py`.

The likelihood with doses as controls is compared with the sum over doses in closed form, and one infant's answer, by a
network whose draws are weighted by that likelihood, with a grid over its three parameters.

Then the last sample of each infant that has at least two is left out, and predicted by the earlier ones. Nothing that
is predicted was looked at before: medians, spreads and noise of the population are those that make the earlier samples
likeliest, all infants together, clearance and volume of each integrated out. It is predicted by draws of an infant's
prior that are weighted by the exact likelihood of its earlier samples, and by paths of these. Beside that stand an
infant that has the medians of the population, and its own sample before the last as it was.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import SIMULATORS, Rows, check, clock
from torch import Tensor

from sciinf import Flow, Recipe, build_posterior, simulate, train
from sciinf.core.simulator import load_module

NODES = 17  # of each integral over an infant's effects
DRAWS, PATHS = 8_000, 4_000
ONE = 18  # the infant whose answer is compared with a grid
LEVELS = (0.05, 0.5, 0.95)
GRID = 81  # points along each parameter


def pheno(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Exactness, and held-out samples."""
    of: Any = load_module(SIMULATORS / "phenobarbital.py")
    rows, checks = _held_out(of, options.seed)
    rows += _answer(of, options, out, checks)
    checks.insert(0, check("pheno: log-likelihood off the sum over doses", _off(of, options.seed), 1e-8))
    return rows, checks


def concentration(infant: Any, times: np.ndarray, clearance: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """In mg/L at times, (row, time): the sum over doses, in closed form."""
    since = times[:, None] - infant.dosed
    left = np.exp(-(clearance / volume)[:, None, None] * np.maximum(since, 0))
    return (left * np.where(since > 0, infant.doses, 0.0)).sum(-1) / volume[:, None]


def log_density(infant: Any, count: int, theta: np.ndarray) -> np.ndarray:
    """log p of an infant's first samples, (row,), theta (row, 3) as clearance, volume and noise."""
    clearance, volume, noise = theta.T
    seen = np.float32(infant.samples[:count]).astype(float)  # as data are stored
    z = (seen - concentration(infant, infant.sampled[:count], clearance, volume)) / noise[:, None]
    return -0.5 * (z**2).sum(1) - count * (np.log(noise) + 0.5 * math.log(2 * math.pi))


def _off(of: Any, seed: int) -> float:
    """The largest error of the filter, over all infants."""
    theta = of.simulator.prior.sample(50, generator=torch.Generator().manual_seed(seed))
    found = []
    for infant in of.infants():
        x = {name: value[None] for name, value in of.record_of(of.simulator, infant).items()}
        exact = log_density(infant, len(infant.samples), theta.double().numpy())
        found.append(np.abs(of.simulator.log_likelihood(theta.double(), x).numpy() - exact).max())
    return float(max(found))


def _earlier(infant: Any) -> int:
    """How many samples are looked at: all but the last, of an infant that has several."""
    return max(1, len(infant.samples) - 1)


def population(of: Any) -> tuple[np.ndarray, float]:
    """Medians of clearance and volume, sds of their logarithms, and the noise, likeliest by earlier samples; nats."""
    from scipy.optimize import minimize

    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    effects = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    log_weight = np.log(np.outer(weights, weights).ravel() / weights.sum() ** 2)

    def minus(logs: np.ndarray) -> float:
        clearance, volume, spread, other, noise = np.exp(logs)
        each = [clearance * np.exp(spread * effects[:, 0]), volume * np.exp(other * effects[:, 1])]
        theta = np.stack([*each, np.full(len(effects), noise)], -1)
        log = (log_weight + log_density(infant, _earlier(infant), theta) for infant in of.infants())
        return -float(sum(np.logaddexp.reduce(one) for one in log))

    start = np.log([of.CLEARANCE[0], of.VOLUME[0], of.CLEARANCE[1], of.VOLUME[1], of.NOISE[0]])
    found = minimize(minus, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-3, "maxfev": 1_000})
    return np.exp(found.x), -float(found.fun)


def _held_out(of: Any, seed: int) -> tuple[Rows, Rows]:
    """Samples that were left out, and what was predicted of them."""
    started = clock("cpu")
    likeliest, _ = population(of)
    clearance, volume, spread, other, noise = likeliest.tolist()
    prior = of.prior_of((clearance, spread), (volume, other), (noise, of.NOISE[1]))
    simulator, generator = of.simulator_of(prior), torch.Generator().manual_seed(seed)
    inside, wide, error, plain, before, prior_inside = [], [], [], [], [], []
    for infant in (one for one in of.infants() if len(one.samples) > 1):
        x = {name: value[None] for name, value in of.record_of(simulator, infant, hidden=1).items()}
        theta = prior.sample(DRAWS, generator=generator)
        weights = simulator.log_likelihood(theta, x).softmax(0)
        ends = []
        for law in (weights, torch.ones_like(weights)):
            some = theta[torch.multinomial(law, PATHS, replacement=True, generator=generator)]
            path = simulator.paths(some, x, generator)["concentration"]
            sample = path.draws[:, -1] + some[:, 2].numpy() * torch.randn(PATHS, generator=generator).numpy()
            ends.append(np.quantile(sample, LEVELS))
        (low, middle, high), (lowest, _, highest) = ends
        last = infant.samples[-1]
        inside.append(low <= last <= high)
        prior_inside.append(lowest <= last <= highest)
        wide.append((high - low) / (highest - lowest))
        error.append(middle - last)
        at = concentration(infant, infant.sampled[-1:], np.array([clearance]), np.array([volume]))
        plain.append(at[0, 0] - last)
        before.append(infant.samples[-2] - last)
    covered, count = float(np.mean(inside)), len(inside)
    found = {"its earlier samples": error, "medians of the population": plain, "its sample before": before}
    rows: Rows = [
        {"last sample predicted by": name, "infants": count, **_errors(each), "covered": "-", "width": "-"}
        for name, each in found.items()
    ]
    rows[0] |= {"covered": covered, "width": float(np.mean(wide)), "CPU s": clock("cpu") - started}
    rows[1] |= {"covered": float(np.mean(prior_inside)), "width": 1.0}
    rows.append(
        {
            "population, by earlier samples": "clearance, volume, noise",
            "medians": f"{clearance:.5f} L/(h kg), {volume:.3f} L/kg, {noise:.2f} mg/L",
            "sds": f"{spread:.0%}, {other:.0%}",
        }
    )
    rms = [rows[k]["error, mg/L (rms)"] for k in (0, 1)]
    return rows, [
        check("pheno: shares of last samples outside their 90 % intervals", 1 - covered, 0.18),
        check("pheno: shares of last samples inside their 90 % intervals", covered, 0.98),
        check("pheno: rms error / that of the population's medians", rms[0] / rms[1], 1.0),
    ]


def _errors(each: list[float]) -> dict[str, float]:
    values = np.array(each)
    return {
        "error, mg/L (rms)": float(np.sqrt((values**2).mean())),
        "median |error|": float(np.median(np.abs(values))),
        "mean": float(values.mean()),
    }


def _answer(of: Any, options: Any, out: Path, checks: Rows) -> Rows:
    """One infant's answer and path beside a grid's, and what they are apart."""
    simulator, infant = of.simulator, of.infants()[ONE - 1]
    x = {name: value[None] for name, value in of.record_of(simulator, infant, hidden=1).items()}
    grid, weight, evidence = _grid(of, infant)
    started = clock("cpu")
    store = simulate(simulator, out / "pheno", 4_000 if options.quick else 15_000, seed=options.seed)
    estimator = Flow(simulator.prior, simulator.observables, seed=options.seed)
    fit: Any = train(estimator, store, out / "pheno_fit", recipe=Recipe(epochs=15), seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    draws: Any = build_posterior(fit, simulator, ess=16_000).draw(x, 16_000, generator=generator)
    mean, sd = weight @ grid, (weight @ (grid - weight @ grid).square()).sqrt()
    means = float(((draws.mean().double() - mean).abs() / sd).max())
    sds = float((draws.sd().double() / sd - 1).abs().max())
    path = simulator.paths(draws.resample(20_000, generator=generator), x, generator)["concentration"]
    some = grid[torch.multinomial(weight, 20_000, replacement=True, generator=generator)].numpy()
    # a line of the record before a dose, and one after it, have the same time: the last of these, a moment later
    later = path.times + 1e-9 * np.append(path.times[1:] != path.times[:-1], True)
    exact = concentration(infant, later, *some.T[:2])
    band = np.abs(np.quantile(path.draws, LEVELS, axis=0) - np.quantile(exact, LEVELS, axis=0))
    bands = float((band / exact.std(0).clip(1e-3)).max())
    wide = 2.0 if options.quick else 1.0
    checks += [
        check(f"pheno, infant {ONE}: means off, in sds", means, 0.1 * wide),
        check(f"pheno, infant {ONE}: sds off", sds, 0.05 * wide),
        check(f"pheno, infant {ONE}: log evidence off", abs(draws.log_evidence - evidence), 0.1),
        check(f"pheno, infant {ONE}: band of the concentration off, in sds", bands, 0.1 * wide),
    ]
    spent = {"ESS": draws.ess, "draws": len(draws), "CPU s": clock("cpu") - started}
    return [
        {f"infant {ONE}": "weighted", **_words(draws.mean(), draws.sd()), "log Z": draws.log_evidence, **spent},
        {f"infant {ONE}": "grid", **_words(mean, sd), "log Z": evidence, "ESS": "-", "draws": "-", "CPU s": "-"},
    ]


def _grid(of: Any, infant: Any) -> tuple[Tensor, Tensor, float]:
    """Points, their weights, and the log evidence of an infant's samples but the last."""
    z = torch.linspace(-4.5, 4.5, GRID, dtype=torch.float64)
    laws = torch.tensor([of.CLEARANCE, of.VOLUME, of.NOISE], dtype=torch.float64)
    normal = torch.cartesian_prod(z, z, z)
    theta = laws[:, 0] * (laws[:, 1] * normal).exp()
    log = torch.from_numpy(log_density(infant, _earlier(infant), theta.numpy()))
    log = log - 0.5 * normal.square().sum(-1) - 1.5 * math.log(2 * math.pi) + 3 * math.log(float(z[1] - z[0]))
    return theta, log.softmax(0), float(log.logsumexp(0))


def _words(mean: Tensor, sd: Tensor) -> dict[str, str]:
    names = ("clearance", "volume", "noise")
    return {n: f"{float(m):.4g} +- {float(s):.2g}" for n, m, s in zip(names, mean, sd, strict=True)}
