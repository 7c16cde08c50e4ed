"""Parameters through a generator, against the exact posterior: a part of `generators.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check
from sbi_peer import c2st
from torch import Tensor

from sciinf import Flow, Recipe, build_posterior, calibrate, load_simulator, simulate, train
from sciinf.emulators import Emulator, Generator
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Frames, JointTokens, MixtureTokens
from sciinf.simulators.dynamics.field_equation import column
from sciinf.wrappers import Sensors, observed

POINTS, TIMES, FRAMES = 32, tuple(k / 10 for k in range(11)), (2, 4, 6, 8, 10)
SENSORS = Sensors([k / 8 for k in range(8)], sd=0.05, frames=list(FRAMES))
SIDES = (120, 100)  # of the grid: logarithms of viscosities, forcings
DRAWS = 2_000
CASES = {  # law, solutions, epochs
    "Mixture": (MixtureTokens, 2_000, None),
    "Joint": (JointTokens, 2_000, None),
    "Joint, badly trained": (JointTokens, 200, 3),
}


def inference(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of C2ST, shifts, widths and calibration, through the solver and through generators."""
    make: Any = type(load_simulator(SIMULATORS / "pde" / "forced_burgers.py"))
    equation = make(POINTS, TIMES, steepening=0.0, longest=0.1)
    truth = observed(equation, SENSORS)
    fresh = simulate(truth, out / "fresh", 1_000 if options.quick else 4_000, seed=options.seed + 3)
    seen = simulate(truth, out / "seen", 3 if options.quick else 10, seed=options.seed + 4).load()
    exact = [on_grid(equation, y, options.seed) for y in seen.x["y"]]
    count, rows, checks = 5_000 if options.quick else 30_000, [], []
    sources = {"solver": truth}
    for case, (law, solutions, epochs) in CASES.items():
        store = simulate(equation, out / f"solved {solutions}", solutions, seed=options.seed)
        made = Generator(
            equation.prior,
            equation.observables,
            order=Frames(1),
            law=law(),
            network=TokenTransformer(64, 3, heads=4),
            seed=options.seed,
        )
        recipe = Recipe(epochs=12 if options.quick and epochs is None else epochs)
        fit = train(made, store, out / case, recipe=recipe, seed=options.seed)
        sources[case] = observed(Emulator(fit, equation), SENSORS)
    for case, source in sources.items():
        simulated = simulate(source, out / f"{case} simulated", count, seed=options.seed + 1)
        learned = train(Flow(source.prior, source.observables, seed=options.seed), simulated, out / f"{case} flow")
        posterior = build_posterior(learned)
        ranks, coverage = (calibrate(posterior, fresh, rows=n) for n in (500, len(fresh)))
        each = [compared(posterior, y, e, options.seed) for y, e in zip(seen.x["y"], exact, strict=True)]
        row = {"through": case} | {key: sum(one[key] for one in each) / len(each) for key in each[0]}
        row |= {"p": min(ranks.p_values.values()), "coverage off": max(abs(gap) for gap in coverage.gaps.values())}
        rows.append(row)
    of = {row["through"]: row for row in rows}
    bound = 0.06 if options.quick else 0.03
    for case in ("Mixture", "Joint"):
        above = of[case]["C2ST"] - of["solver"]["C2ST"]
        checks.append(check(f"inference, {case}: C2ST above that through the solver", above, bound))
        checks.append(check(f"inference, {case}: 0.01 / smallest p of SBC", 0.01 / max(of[case]["p"], 1e-12), 1.0))
    poor = of["Joint, badly trained"]
    checks.append(
        check("inference, badly trained: coverage off by", poor["coverage off"], 0.1 if options.quick else 0.05)
    )
    return rows, checks


def compared(posterior: Any, y: Tensor, exact: Tensor, seed: int) -> dict[str, float]:
    """Draws against those of the grid."""
    draws = logged(posterior.draw({"y": y[None]}, DRAWS, generator=torch.Generator().manual_seed(seed)).theta)
    shift = ((draws.mean(0) - exact.mean(0)) / exact.std(0)).abs().mean()
    return {"C2ST": c2st(draws, exact), "shift": float(shift), "width": float((draws.std(0) / exact.std(0)).mean())}


def on_grid(equation: Any, y: Tensor, seed: int) -> Tensor:
    """Draws of an observation's exact posterior, (draws, 2), the viscosity in logarithms."""
    viscosity = torch.linspace(-4.6 - 4 * 0.4, -4.6 + 4 * 0.4, SIDES[0]).double()
    forcing = torch.linspace(0.3, 1.0, SIDES[1] + 1).double()[:-1] + 0.35 / SIDES[1]
    theta = torch.cartesian_prod(viscosity, forcing)
    natural = torch.stack([theta[:, 0].exp(), theta[:, 1]], 1)
    log_p = equation.prior.log_prob(natural) + theta[:, 0]
    log_p = log_p + torch.cat([log_likelihood(equation, part, y.double().flatten()) for part in natural.split(500)])
    generator = torch.Generator().manual_seed(seed)
    chosen = theta[torch.multinomial((log_p - log_p.max()).exp(), DRAWS, replacement=True, generator=generator)]
    cell = torch.tensor([float(viscosity[1] - viscosity[0]), 0.7 / SIDES[1]])
    return chosen + cell * (torch.rand(chosen.shape, generator=generator) - 0.5)


def log_likelihood(equation: Any, theta: Tensor, y: Tensor) -> Tensor:
    """Of what sensors see, which is Gaussian with mean 0: every mode is an Ornstein-Uhlenbeck process."""
    grid, size = equation.grid, column(theta, equation.prior, "forcing", torch.empty(1, 1))
    decay = column(theta, equation.prior, "viscosity", torch.empty(1, 1)) * grid.squared
    before = (equation.initial.sd * equation.initial.filter(grid)).square()
    driven = (size * equation.driven.sd * equation.driven.filter(grid)).square()
    unit = torch.zeros(POINTS, dtype=torch.float64)
    unit[0] = 1.0
    step = POINTS // 8
    lags = (torch.arange(0, POINTS, step)[:, None] - torch.arange(0, POINTS, step)) % POINTS
    rows = []
    for one in FRAMES:
        blocks = []
        for other in FRAMES:
            early, apart = TIMES[min(one, other)], abs(TIMES[one] - TIMES[other])
            rate = (2 * decay).clamp_min(1e-12)
            variance = (-rate * early).exp() * before - driven * torch.expm1(-rate * early) / rate
            blocks.append(grid.back(grid.transformed(unit) * variance * (-decay * apart).exp())[:, lags])
        rows.append(torch.cat(blocks, 2))
    covariance = torch.cat(rows, 1) + SENSORS.sd**2 * torch.eye(len(y), dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    return law.log_prob(y)


def logged(theta: Tensor) -> Tensor:
    """The viscosity in logarithms."""
    return torch.stack([theta[:, 0].log(), theta[:, 1]], 1).double()
