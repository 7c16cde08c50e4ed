"""Expressions of points by a network that may be told hypotheses, beside draws of the prior and gplearn.

Used by `dynamics.py`. Expressions of x in +, -, *, sin, cos, 1 and 2, three levels deep; 50 points with noise. One is
recovered where the most probable function is the true one, its values on a grid within 2 % of their size. gplearn runs
where it is installed (`pip install gplearn`; 0.4.3).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import check, clock
from torch import Tensor

from sciinf import LogUniform, Recipe, build_posterior, simulate, train
from sciinf.lab import Equations, expressions
from sciinf.lab.hypotheses import suppose
from sciinf.simulators.dynamics.expressions import Expressions

CLOSE = 0.02
GRID = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64)[None, :, None]


def equations(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Recovery with and without hypotheses, how these are met, what false ones cost, and a peer."""
    warnings.simplefilter("ignore")
    grammar = Expressions(["x"], operate=(0.95, 0.6, 0.35))
    simulator = expressions(grammar, (-2.0, 2.0), noise=LogUniform(0.01, 0.1), parts=[("*", "x", "x")])
    rows = 4_000 if options.quick else 100_000
    store = simulate(simulator, out / "expressions", rows, seed=options.seed, progress=False)
    recipe = Recipe(
        epochs=1,
        batch=256,
        learning_rate=0.015,
        optimiser="muon",
        weight_decay=0.0,
        clip=1.0,
        ema=0.0,
        validation_fraction=0.02,
    )
    started = clock("cpu")
    estimator = Equations(simulator.prior, simulator.observables, hide=False, seed=options.seed)
    fit: Any = train(estimator, store, out / "fit", recipe=recipe, seed=options.seed, progress=False)
    spent = clock("cpu") - started
    theta, x = problems(simulator, 10 if options.quick else 60, options.seed + 1)
    table = [{"told": told, **recovery(fit.estimator, simulator, theta, x, told)} for told in ("nothing", "one", "all")]
    table.append({"told": "nothing, draws of the prior", **recovery(None, simulator, theta, x, "nothing")})
    table[0]["training CPU s"] = spent
    few = slice(0, 3 if options.quick else 10)
    weighed = questions(fit, simulator, theta[few], {name: value[few] for name, value in x.items()})
    peer = gplearn(simulator, theta[few], x["points"][few], 2 if options.quick else 5)
    wide = 1.0 if options.quick else 0.0
    by = dict(zip(("nothing", "one", "all", "prior"), (row["100 draws"] for row in table), strict=True))
    checks = [
        check("recovery by the prior's draws less that by the network's", by["prior"] - by["nothing"], wide),
        check("recovery with nothing told less that with all", by["nothing"] - by["all"], wide),
        check("false hypotheses that are not called", 1 - weighed["false called"], 0.1 + wide),
        check("true hypotheses that are called false", weighed["true called"], 0.1 + wide),
    ]
    if peer:
        less, share = peer["recovered"] - weighed["recovered"], weighed["CPU s"] / peer["CPU s"]
        checks.append(check("recovery of gplearn less that of the answer", less, wide))
        checks.append(check("CPU s of an answer, in those of gplearn", share, 0.1 + wide))
    targets = [
        {"target nobody had tried": "gain by one true statement", "wanted": 0.1, "found": _gain(table, 1)},
        {"target nobody had tried": "gain by all statements", "wanted": 0.1, "found": _gain(table, 2)},
        {"target nobody had tried": "draws of the network that meet it", "wanted": 0.95, "found": table[1]["met"]},
    ]
    return [*table, weighed, *([peer] if peer else []), *targets], checks


def _gain(table: list[dict[str, Any]], which: int) -> float:
    """Of recovery with 1,000 draws, over that with nothing told."""
    return table[which]["1,000 draws"] - table[0]["1,000 draws"]


def problems(simulator: Any, count: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Expressions that depend on x, with points; nothing is told."""
    generator = torch.Generator().manual_seed(seed)
    theta = simulator.prior.sample(4 * count, generator=generator)
    values = simulator.grammar.values(theta, GRID)
    theta = theta[values.std(1) > 0.1][:count]
    x = simulator(theta, generator=generator)
    return theta, {**x, "hypotheses_mask": torch.zeros_like(x["hypotheses_mask"])}


def told(simulator: Any, theta: Tensor, x: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """The same points with true statements: none, one of those that say that something holds, or all."""
    true, mask = simulator.true(theta), torch.zeros_like(x["hypotheses_mask"])
    if what == "all":
        mask = torch.ones_like(mask)
    if what == "one":
        chance = torch.rand(true.shape, generator=torch.Generator().manual_seed(0)) + true
        mask[torch.arange(len(mask)), chance.argmax(1)] = True
    return {**x, "hypotheses": torch.where(mask, true, False).float(), "hypotheses_mask": mask}


def recovery(estimator: Any, simulator: Any, theta: Tensor, x: dict[str, Tensor], what: str) -> dict[str, Any]:
    """How often the likeliest of some weighted draws is the true function."""
    x, generator, found = told(simulator, theta, x, what), torch.Generator().manual_seed(7), {}
    truth, most, started = simulator.grammar.values(theta, GRID), 1_000, clock("cpu")
    right, met = dict.fromkeys((10, 100, most), 0), 0.0
    for k in range(len(theta)):
        one = {name: value[k : k + 1] for name, value in x.items()}
        log_r = None
        if estimator is None:
            drawn = simulator.prior.sample(most, generator=generator)
        else:
            density = estimator.condition(one)
            drawn = density.sample(most, generator=generator)[:, 0]
            log_r = density.log_prob(drawn[:, None])[:, 0]
        mask = one["hypotheses_mask"]
        met += float((~mask | (simulator.true(drawn) == (one["hypotheses"] > 0.5))).all(1).float().mean()) / len(theta)
        weight = simulator.log_likelihood(drawn, one)
        weight = weight if log_r is None else weight + simulator.prior.log_prob(drawn) - log_r
        for n in right:
            best = drawn[int(weight[:n].argmax())][None]
            right[n] += close(simulator.grammar.values(best, GRID), truth[k])
    found = {f"{n:,} draws": count / len(theta) for n, count in right.items()}
    return {**found, "met": met, "CPU s each": (clock("cpu") - started) / len(theta), "problems": len(theta)}


def close(values: Tensor, truth: Tensor) -> bool:
    """Whether values on the grid are those of the truth."""
    return bool((values - truth).square().mean().sqrt() <= CLOSE * truth.square().mean().sqrt())


def questions(fit: Any, simulator: Any, theta: Tensor, x: dict[str, Tensor]) -> dict[str, Any]:
    """Answers by weights: recovery, and what is said of one true and one false statement of each."""
    posterior: Any = build_posterior(fit, simulator, ess=200, budget=8_000)
    truth, true = simulator.grammar.values(theta, GRID), simulator.true(theta)
    started, right, called, wrong = clock("cpu"), 0, 0, 0
    for k in range(len(theta)):
        answer = suppose(posterior, simulator, x["points"][k], draws=2_000)
        right += close(simulator.grammar.values(answer.functions[0].theta[None], GRID), truth[k])
    spent = (clock("cpu") - started) / len(theta)
    for k in range(len(theta)):
        value = bool(true[k, k % 2])  # "even" for one, "odd" for the next
        name = simulator.statements[k % 2]
        called += "contradict" in suppose(posterior, simulator, x["points"][k], {name: not value}, draws=2_000).verdict
        wrong += "contradict" in suppose(posterior, simulator, x["points"][k], {name: value}, draws=2_000).verdict
    count = len(theta)
    found = {"answers by": "weights, 2,000 draws or more", "recovered": right / count, "CPU s": spent}
    return {**found, "false called": called / count, "true called": wrong / count, "problems": count}


def gplearn(simulator: Any, theta: Tensor, points: Tensor, most: int) -> dict[str, Any]:
    """The same points by genetic programming with its defaults; nothing where it is not installed."""
    try:
        from gplearn.genetic import SymbolicRegressor  # type: ignore[import-not-found]
    except ImportError:
        return {}
    truth, grid = simulator.grammar.values(theta, GRID), GRID[0].numpy()
    started, right, count = clock("cpu"), 0, min(most, len(theta))
    for k in range(count):
        model = SymbolicRegressor(
            function_set=("add", "sub", "mul", "sin", "cos"), const_range=(1.0, 2.0), random_state=k, verbose=0
        )
        model.fit(points[k, :, :1].double().numpy(), points[k, :, 1].double().numpy())
        right += close(torch.as_tensor(np.asarray(model.predict(grid))), truth[k])
    spent = (clock("cpu") - started) / count
    return {"answers by": "gplearn 0.4.3", "recovered": right / count, "CPU s": spent, "problems": count}
