"""Posteriors of Burgers' equation through a surrogate, against a grid on the solver.

A part of `surrogates.py`, through an `Operator`, and of `generators.py`, through a `Generator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check
from sbi_peer import c2st
from torch import Tensor

from sciinf import Flow, Recipe, build_posterior, calibrate, load_simulator, simulate, train
from sciinf.core import Surrogate
from sciinf.emulators import Emulator, Generator, Operator
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Patches
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.random_field import Waves
from sciinf.wrappers import Sensors, observed

SENSORS = Sensors([0.05 + 0.1 * k for k in range(10)], sd=0.05, frames=[4])
SIDES = (150, 100)  # of the grid: logarithms of viscosities, amplitudes
DRAWS = 2_000
RANKED, COVERED = 500, 4_000  # simulations of SBC, and of coverage, which 500 know to 2.2 points at a level of one half
WELL = "well trained"


@dataclass(frozen=True)
class Case:
    """A surrogate.

    Attributes:
        build: Of the equation and a seed.
        solutions: That it learns from.
        recipe: How.
        own: Which of the fit's figures says how good it is.
    """

    build: Callable[[Any, int], Surrogate]
    solutions: int
    recipe: Recipe
    own: str


def _operator(burgers: Any, seed: int) -> Surrogate:
    return Operator(burgers.prior, burgers.observables, Fourier(16, 16), seed=seed)


def _generator(burgers: Any, seed: int) -> Surrogate:
    return Generator(burgers.prior, burgers.observables, Patches(8), network=TokenTransformer(64, 4), seed=seed)


OPERATORS = {
    WELL: Case(_operator, 1_000, Recipe(epochs=60, batch=20), "relative_error"),
    "badly trained": Case(_operator, 400, Recipe(epochs=4, batch=20), "relative_error"),
}
GENERATORS = {
    WELL: Case(_generator, 1_000, Recipe(epochs=60, batch=20), "spread_skill"),
    "badly trained": Case(_generator, 400, Recipe(epochs=2, batch=20), "spread_skill"),
}


def bridge(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Through an `Operator`."""
    return through(OPERATORS, options, out)


def drawn_bridge(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Through a `Generator`."""
    return through(GENERATORS, options, out)


def through(cases: dict[str, Case], options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of C2ST, shifts and widths, and what they are to be; the surrogate's own figures beside them."""
    equation: Any = type(load_simulator(SIMULATORS / "pde" / "burgers.py"))
    burgers = equation(initial=Waves((1.0, 0.5), (0.0, 0.2)))
    truth = observed(burgers, SENSORS)
    fresh = simulate(truth, out / "fresh", COVERED, seed=options.seed + 3)
    seen = simulate(truth, out / "seen", 3 if options.quick else 10, seed=options.seed + 4).load()
    exact = on_grid(burgers, truth, seen.x["y"], options.seed)
    rows, checks = [], []
    for case, told in cases.items():
        store = simulate(burgers, out / f"solved {told.solutions}", told.solutions, seed=options.seed)
        surrogate = told.build(burgers, options.seed)
        fit = train(surrogate, store, out / case / "surrogate", recipe=told.recipe, seed=options.seed)
        emulated = observed(Emulator(fit, burgers), SENSORS)
        simulated = simulate(emulated, out / case / "simulated", 10_000, seed=options.seed + 1)
        flow = Flow(emulated.prior, emulated.observables, seed=options.seed)
        learned = train(flow, simulated, out / case / "fit", seed=options.seed)
        ranks, coverage = (calibrate(build_posterior(learned), fresh, rows=count) for count in (RANKED, COVERED))
        corrected = build_posterior(learned, truth, ess=DRAWS, budget=20_000)
        each = [compared(learned, corrected, y, e, options.seed) for y, e in zip(seen.x["y"], exact, strict=True)]
        row = {key: sum(one[key] for one in each) / len(each) for key in each[0]}
        row |= {f"surrogate's {told.own}": fit.record[told.own], "p": min(ranks.p_values.values())}
        row["coverage off"] = max(abs(gap) for gap in coverage.gaps.values())
        rows.append({"case": case, **row})
        if case == WELL:
            checks.append(check(f"{case}: C2ST", row["C2ST"], 0.6))
            checks.append(check(f"{case}: 0.01 / smallest p of SBC on the solver's data", 0.01 / row["p"], 1.0))
        else:
            checks.append(check(f"{case}: mean off by, in its sds", row["shift"], 0.5))
            # three observations and 2,000 draws of each tell a width to some per cent
            checks.append(check(f"{case}: 1 / width", 1 / row["width"], 1.1 if options.quick else 1.0))
            checks.append(check(f"{case}: coverage off by", row["coverage off"], 0.05))
        checks.append(check(f"{case}: C2ST after correction", row["C2ST corrected"], 0.55))
    return rows, checks


def compared(learned: Any, corrected: Any, y: Tensor, exact: Tensor, seed: int) -> dict[str, float]:
    """Amortised and corrected draws against those of the grid."""
    generator = torch.Generator().manual_seed(seed)
    raw = logged(build_posterior(learned).draw({"y": y[None]}, DRAWS, generator=generator).theta)
    draws = corrected.draw({"y": y[None]}, DRAWS, generator=generator)
    better = logged(draws.resample(DRAWS, generator=generator))
    shift = ((raw.mean(0) - exact.mean(0)) / raw.std(0)).abs().mean()
    return {
        "C2ST": c2st(raw, exact),
        "C2ST corrected": c2st(better, exact),
        "shift": float(shift),
        "width": float((raw.std(0) / exact.std(0)).mean()),
        "solver runs": float(len(draws.theta)),
    }


def on_grid(burgers: Any, truth: Any, seen: Tensor, seed: int) -> list[Tensor]:
    """Draws of each observation's posterior on a grid of the solver, (draws, 2), the viscosity in logarithms."""
    viscosity = torch.linspace(math.log(0.003), math.log(0.3), SIDES[0]).double()
    amplitude = torch.linspace(0.5, 1.0, SIDES[1] + 1).double()[:-1] + 0.25 / SIDES[1]
    theta = torch.cartesian_prod(viscosity, amplitude)
    natural = torch.stack([theta[:, 0].exp(), theta[:, 1]], 1)
    generator, clean = torch.Generator().manual_seed(seed), []
    for part in natural.split(1_000):
        clean.append(truth.measured(burgers.solve(part, burgers.start(part, generator=generator))))
    log_prior = truth.prior.log_prob(natural) + theta[:, 0]
    cell, found = torch.tensor([float(viscosity[1] - viscosity[0]), 0.5 / SIDES[1]]), []
    for y in seen.double():
        log_p = log_prior - 0.5 * ((torch.cat(clean) - y) / SENSORS.sd).square().sum(1)
        chosen = theta[torch.multinomial((log_p - log_p.max()).exp(), DRAWS, replacement=True, generator=generator)]
        found.append(chosen + cell * (torch.rand(chosen.shape, generator=generator) - 0.5))
    return found


def logged(theta: Tensor) -> Tensor:
    """The viscosity in logarithms."""
    return torch.stack([theta[:, 0].log(), theta[:, 1]], 1).double()
