"""Viscosity and amplitude of a wave from ten sensors, through a surrogate of Burgers' equation.

sciinf run pipelines/burgers_inverse.py --out runs/burgers_inverse
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sciinf import Answer, Flow, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.core import Batch
from sciinf.diagnostics.fields import conformal
from sciinf.emulators import Emulator, Operator
from sciinf.interfaces.figures.fields import draw_fields
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.random_field import Waves
from sciinf.wrappers import Sensors, observed

BURGERS = Path(__file__).parent.parent / "simulators" / "pde" / "burgers.py"
SENSORS = Sensors([0.05 + 0.1 * k for k in range(10)], sd=0.05, frames=[4])


def run(
    out: Path,
    *,
    seed: int = 0,
    solutions: int = 1_000,
    simulations: int = 10_000,
    ess: float = 2_000,
    budget: int = 20_000,
) -> Answer:
    """The posterior of viscosity and amplitude, corrected by the true solver.

    Args:
        out: Run folder.
        seed: Seeds everything.
        solutions: Runs of the solver that the surrogate is trained on.
        simulations: Runs of the surrogate that the posterior is trained on.
        ess: Effective sample size of the answer, by further runs of the solver where the posterior is.
        budget: Of those runs, at most.
    """
    equation: Any = type(load_simulator(BURGERS))
    burgers = equation(initial=Waves((1.0, 0.5), (0.0, 0.2)))
    solved = simulate(burgers, out / "solutions", solutions, seed=seed)
    operator = Operator(burgers.prior, burgers.observables, Fourier(width=16), seed=seed)
    surrogate = train(operator, solved, out / "surrogate", seed=seed)

    truth, emulated = observed(burgers, SENSORS), observed(Emulator(surrogate, burgers), SENSORS)
    rows = simulate(emulated, out / "simulations", simulations, seed=seed + 1)
    fit = train(Flow(emulated.prior, emulated.observables, seed=seed), rows, out / "fit", seed=seed)
    fresh = simulate(truth, out / "calibration_simulations", 1_000, seed=seed + 2)
    calibration = calibrate(build_posterior(fit), fresh, out)  # of the surrogate's posterior on the solver's data

    seen = simulate(truth, out / "observation", 1, seed=seed + 3).load()
    data = {name: value[0] for name, value in seen.x.items()}
    posterior = build_posterior(fit, truth, ess=ess, budget=budget)
    answer = query(posterior, data, calibration, simulator=truth, out=out, seed=seed)

    given = burgers.start(seen.theta, generator=torch.Generator().manual_seed(seed))
    one = Batch(seen.theta, {**given, "u": burgers.solve(seen.theta.double(), given).float()})
    band = conformal(surrogate, simulate(burgers, out / "band_solutions", 200, seed=seed + 4))
    draw_fields(out / "fields.png", burgers, surrogate.surrogate, one, band)
    return answer
