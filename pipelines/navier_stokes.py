"""Viscosity and forcing of a flow from sixteen probes of its vorticity at two times.

sciinf run pipelines/navier_stokes.py --out runs/navier_stokes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sciinf import Answer, Flow, Recipe, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.core import Batch
from sciinf.diagnostics.fields import conformal
from sciinf.emulators import Emulator, Stepwise
from sciinf.interfaces.figures.fields import draw_fields
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.random_field import Known, RandomField
from sciinf.wrappers import Sensors, observed

FLOW = Path(__file__).parent.parent / "simulators" / "pde" / "navier_stokes.py"
PROBES = Sensors([(y, x) for y in (0.1, 0.35, 0.6, 0.85) for x in (0.1, 0.35, 0.6, 0.85)], sd=0.05, frames=[3, 6])


def run(
    out: Path,
    *,
    seed: int = 0,
    points: int = 48,
    solutions: int = 150,
    epochs: int = 30,
    simulations: int = 2_000,
    ess: float = 500,
) -> Answer:
    """The posterior of viscosity and strength of the forcing, the vorticity at the beginning being known.

    Args:
        out: Run folder.
        seed: Seeds everything but the flow's beginning, which is the same always.
        points: Of each side of the grid.
        solutions: Runs of the solver that the surrogate is trained on.
        epochs: Passes over them.
        simulations: Runs of the surrogate that the posterior is trained on.
        ess: Effective sample size of the answer, by further runs of the solver where the posterior is.
    """
    equation: Any = type(load_simulator(FLOW))
    begin = Known(RandomField(0.262, tau=7.0, alpha=2.5), seed=1)
    flow = equation(points=points, times=tuple(float(t) for t in range(7)), initial=begin)
    solved = simulate(flow, out / "solutions", solutions, seed=seed)
    step = Stepwise(flow.prior, flow.observables, Fourier(16, 10, coordinates=True, hidden=64), seed=seed)
    recipe = Recipe(epochs=epochs, batch=8, learning_rate=5e-3)
    surrogate = train(step, solved, out / "surrogate", recipe=recipe, seed=seed)

    truth, emulated = observed(flow, PROBES), observed(Emulator(surrogate, flow), PROBES)
    rows = simulate(emulated, out / "simulations", simulations, seed=seed + 1)
    fit = train(Flow(emulated.prior, emulated.observables, seed=seed), rows, out / "fit", seed=seed)
    fresh = simulate(truth, out / "calibration_simulations", 500, seed=seed + 2)
    calibration = calibrate(build_posterior(fit), fresh, out)

    theta = torch.tensor([[1e-3, 0.1]])
    fields = flow(theta, generator=torch.Generator().manual_seed(seed))
    noise = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed + 3))
    data = {"y": truth.measured(fields["u"])[0] + PROBES.sd * noise}
    posterior = build_posterior(fit, truth, ess=ess, budget=2_000)
    answer = query(posterior, data, calibration, simulator=truth, out=out, seed=seed)

    band = conformal(surrogate, simulate(flow, out / "band_solutions", 50, seed=seed + 4))
    draw_fields(out / "fields.png", flow, surrogate.surrogate, Batch(theta, fields), band)
    return answer
