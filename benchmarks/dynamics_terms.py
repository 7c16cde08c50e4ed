"""Which terms drive an equation: exact posteriors over all sets of terms, where they hold, and a network beside them.

Used by `dynamics.py`. The drift of Lotka and Volterra's equations with noise that grows with the populations, from ten
paths and ten terms a state; steps that are too long, and noise of the states, which break Euler's likelihood; linear
equations of which edges are found or not; a network that learns inclusion probabilities of ten terms; and what all sets
of 10 and of 16 terms take.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from reporting import check, clock

from sciinf import HalfNormal, LogUniform, Mixed, Recipe, simulate, train, wrappers
from sciinf.networks.summaries.vector import MLP
from sciinf.posteriors.equations import EquationPosterior
from sciinf.simulators.dynamics.term_library import Library, polynomials

TRUTH = ({"prey": 1.0, "prey*predator": -1.0}, {"predator": -1.0, "prey*predator": 1.0})
SERIES = 10
TEN = {
    "1": lambda s: torch.ones_like(s["x"]),
    "x": lambda s: s["x"],
    "x^2": lambda s: s["x"] ** 2,
    "x^3": lambda s: s["x"] ** 3,
    "sin(x)": lambda s: s["x"].sin(),
    "cos(x)": lambda s: s["x"].cos(),
    "sin(2x)": lambda s: (2 * s["x"]).sin(),
    "cos(2x)": lambda s: (2 * s["x"]).cos(),
    "tanh(2x)": lambda s: (2 * s["x"]).tanh(),
    "exp(-x^2)": lambda s: (-(s["x"] ** 2)).exp(),
}


def terms(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Exact answers, what breaks them, and a network."""
    warnings.simplefilter("ignore")
    repeats = 2 if options.quick else 6
    drift = [lotka(0.02, 0.0, seed, options.seed) for seed in range(repeats)]
    rows = [_row("step 0.02", drift)]
    for step in (0.05, 0.1, 0.25):
        rows.append(_row(f"step {step:g}", [lotka(step, 0.0, seed, options.seed) for seed in range(repeats // 2)]))
    for noise in (0.005, 0.01, 0.03):
        name = f"step 0.05, states with noise {noise:g}"
        rows.append(_row(name, [lotka(0.05, noise, seed, options.seed) for seed in range(repeats // 2)]))
    edges = [linear(step, 8 if options.quick else 30, options.seed) for step in (0.05, 0.25, 1.0)]
    network = amortised(options, out)
    spent = [three_long_paths(20 if options.quick else 400, options.seed + 3)]
    spent += [every_set(10, options.seed), every_set(13 if options.quick else 16, options.seed)]
    checks = [
        check("drift: 1 - least probability of a true term", 1 - rows[0]["least of true"], 0.1),
        check("drift: largest probability of another term", rows[0]["most of others"], 0.1),
        check("steps of 0.25 that the check calls too long: share not called", 1 - rows[3]["steps called"], 0.0),
        check("states with noise 0.01: share not called", 1 - rows[5]["noise called"], 0.0),
    ]
    target = {"target nobody had tried": "mean distance of a network's inclusion probabilities", "wanted": 0.05}
    return [*rows, *edges, *network, *spent, {**target, "found": network[0]["mean distance"]}], checks


def lotka(step: float, noise: float, seed: int, base: int) -> dict[str, Any]:
    """One record, its inclusion probabilities and what the checks say."""
    generator = torch.Generator().manual_seed(100 * base + seed)
    times = torch.arange(0.0, 20.0 + step / 2, step)
    library = polynomials({"prey": "", "predator": ""}, 3)
    start = 0.5 + torch.rand(SERIES, 2, generator=generator)
    record = wrappers.Paths(start, times, substeps=max(1, round(step / 0.005)))
    law = {"prey": HalfNormal(1.0), "predator": HalfNormal(1.0)}
    grows = {"prey": "prey", "predator": "predator"}
    simulator = wrappers.equations(library, record, sd=1.0, noise=law, include=0.2, grows=grows)
    theta = torch.full((1, len(simulator.prior)), math.nan, dtype=torch.float64)
    theta[:, simulator.has.flatten()], theta[:, simulator.sigma] = 0.0, 0.1
    for state, true in enumerate(TRUTH):
        for name, value in true.items():
            at = library.names.index(name)
            theta[0, simulator.has[state, at]], theta[0, simulator.coefficient[state, at]] = 1.0, value
    x = simulator(theta, generator=generator)["record"]
    x = {"record": x + noise * torch.randn(x.shape, generator=generator)}
    started, posterior = clock("cpu"), EquationPosterior(simulator)
    found = posterior.inclusion(x)[0]
    spent, doubts = clock("cpu") - started, posterior.doubts(x)
    true = theta[0, simulator.has] > 0
    return {
        "true": float(found[true].min()),
        "other": float(found[~true].max()),
        "bias": max(bias for bias, _ in doubts.values()),
        "follow": min((follow for _, follow in doubts.values()), key=lambda v: -abs(v)),
        "s": spent,
    }


def _row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several records: the worst, and how many the checks called."""
    return {
        "ten paths of prey and predator": name,
        "least of true": min(f["true"] for f in found),
        "most of others": max(f["other"] for f in found),
        "steps called": sum(f["bias"] > 0.5 for f in found) / len(found),
        "noise called": sum(abs(f["follow"]) > 3.5 for f in found) / len(found),
        "records": len(found),
        "CPU s": sum(f["s"] for f in found) / len(found),
    }


def linear(step: float, records: int, base: int) -> dict[str, Any]:
    """Five states that drive each other linearly: how often an edge is there that is given .9 or more."""
    names, sure, right, called, moved = [f"z{k}" for k in range(5)], 0, 0, 0, 0.0
    for seed in range(records):
        generator = torch.Generator().manual_seed(1000 * base + seed)
        times = torch.arange(51) * step
        record = wrappers.Paths(torch.randn(SERIES, 5, generator=generator), times, substeps=max(1, round(step / 0.02)))
        law = dict.fromkeys(names, HalfNormal(1.0))
        simulator = wrappers.equations(
            polynomials(dict.fromkeys(names, ""), 1, constant=False), record, sd=0.5, noise=law, include=0.3
        )
        theta = simulator.prior.sample(1, generator=generator).double()
        for k in range(5):  # each decays by itself, so that nothing grows without bound
            theta[0, simulator.has[k, k]], theta[0, simulator.coefficient[k, k]] = 1.0, -1.5
        theta[0, simulator.sigma] = 0.5
        x = simulator(theta, generator=generator)
        posterior = EquationPosterior(simulator)
        p, true = posterior.inclusion(x)[0], theta[0, simulator.has] > 0
        edge = ~torch.eye(5, dtype=torch.bool) & (p >= 0.9)
        sure, right = sure + int(edge.sum()), right + int((edge & true).sum())
        bias = max(bias for bias, _ in posterior.doubts(x).values())
        called, moved = called + (bias > 0.5), moved + bias / records
    return {
        "linear, five states, step": step,
        "edges given .9 or more": sure,
        "of these true": right / max(1, sure),
        "steps called": called / records,
        "mean error, sds": moved,
    }


def three_long_paths(records: int, seed: int) -> dict[str, Any]:
    """How many records at steps of .6, which are far too long, pass both checks."""
    start, library = torch.tensor([[1.5], [-1.0], [0.2]]), polynomials({"x": "m"}, 3, time="s")
    record = wrappers.Paths(start, 0.6 * torch.arange(34), substeps=100)
    simulator = wrappers.equations(library, record, sd=1.0, noise={"x": HalfNormal(1.0)}, include=0.3)
    theta = torch.full((1, len(simulator.prior)), math.nan, dtype=torch.float64)
    theta[:, simulator.has.flatten()], theta[:, simulator.sigma] = 0.0, 0.3
    for at, value in ((1, 1.0), (3, -1.0)):
        theta[0, simulator.has[0, at]], theta[0, simulator.coefficient[0, at]] = 1.0, value
    x = simulator(theta.expand(records, -1), generator=torch.Generator().manual_seed(seed))["record"]
    posterior = EquationPosterior(simulator)
    found = [posterior.doubts({"record": one[None]})["x"] for one in x]
    silent = sum(bias <= 0.5 and abs(follow) <= 3.5 for bias, follow in found)
    return {"three paths, step": 0.6, "records": records, "pass both checks": silent}


def every_set(count: int, seed: int) -> dict[str, Any]:
    """What the exact answer of one state with so many terms takes, of 50 rates."""
    states = torch.linspace(-2.0, 2.0, 50)[:, None]
    library = Library({"x": ""}, {f"cos({k}x)": lambda s, k=k: (k * s["x"]).cos() for k in range(count)})
    simulator = wrappers.equations(library, wrappers.Rates(states), sd=1.0, noise={"x": HalfNormal(1.0)}, include=0.3)
    generator = torch.Generator().manual_seed(seed)
    x = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
    started = clock("cpu")
    EquationPosterior(simulator).inclusion(x)
    return {"all sets of one state, terms": count, "CPU s": clock("cpu") - started}


def amortised(options: Any, out: Path) -> list[dict[str, Any]]:
    """Inclusion probabilities of ten terms by a network, beside the exact ones."""
    states = torch.linspace(-2.0, 2.0, 50)[:, None]
    library = Library({"x": ""}, TEN)
    law = {"x": LogUniform(0.1, 1.0)}
    simulator = wrappers.equations(library, wrappers.Rates(states), sd=1.0, noise=law, include=0.3)
    store = simulate(simulator, out / "terms", 4_000 if options.quick else 100_000, seed=options.seed, progress=False)
    estimator = Mixed(
        simulator.prior, simulator.observables, summary=MLP(64, (128, 128)), hidden=48, bins=4, seed=options.seed
    )
    recipe = Recipe(
        epochs=4,
        batch=128,
        learning_rate=0.015,
        optimiser="muon",
        weight_decay=0.0,
        clip=1.0,
        ema=0.0,
        validation_fraction=0.02,
    )
    started = clock("cpu")
    fit: Any = train(estimator, store, out / "terms_fit", recipe=recipe, seed=options.seed, progress=False)
    trained, generator = clock("cpu") - started, torch.Generator().manual_seed(options.seed + 5)
    x = simulator(simulator.prior.sample(100, generator=generator), generator=generator)
    started = clock("cpu")
    exact = EquationPosterior(simulator).inclusion(x)[:, 0]
    each, started = (clock("cpu") - started) / 100, clock("cpu")
    draws = fit.estimator.condition(x).sample(1_000, generator=generator)
    spent = (clock("cpu") - started) / 100
    said = draws[..., : len(library)].double().mean(0)
    rows = [{"inclusion of ten terms by": "network", "mean distance": float((said - exact).abs().mean())}]
    rows[0] |= {"CPU s each": spent, "training CPU s": trained}
    rows.append({"inclusion of ten terms by": "the prior", "mean distance": float((0.3 - exact).abs().mean())})
    rows.append({"inclusion of ten terms by": "all 1,024 sets", "mean distance": 0.0, "CPU s each": each})
    return rows
