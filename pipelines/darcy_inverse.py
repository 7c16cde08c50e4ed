"""Conductivities of two kinds of ground from sixteen pressure gauges, the ground's pattern being unknown.

sciinf run pipelines/darcy_inverse.py --out runs/darcy_inverse
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sciinf import Answer, Flow, Recipe, calibrate, correct, load_simulator, query, simulate, train
from sciinf.core import Batch
from sciinf.diagnostics.fields import conformal
from sciinf.emulators import Emulator, Operator
from sciinf.interfaces.figures.fields import draw_fields
from sciinf.networks.spectral import Fourier
from sciinf.wrappers import Sensors, observed

DARCY = Path(__file__).parent.parent / "simulators" / "pde" / "darcy.py"
GAUGES = Sensors([(y, x) for y in (0.2, 0.4, 0.6, 0.8) for x in (0.2, 0.4, 0.6, 0.8)], sd=0.003)


def run(
    out: Path,
    *,
    seed: int = 0,
    solutions: int = 1_000,
    epochs: int = 20,
    simulations: int = 10_000,
    runs: int = 20_000,
) -> Answer:
    """The posterior of both conductivities, learned through a surrogate and corrected by the true solver.

    Args:
        out: Run folder.
        seed: Seeds everything.
        solutions: Runs of the solver that the surrogate is trained on.
        epochs: Passes over them.
        simulations: Runs of the surrogate that the first posterior is trained on.
        runs: Of the solver where that posterior is, for there is no likelihood to weigh it by.
    """
    darcy: Any = load_simulator(DARCY)
    net = Fourier(24, 8, padding=0.1, coordinates=True, hidden=64)
    solved = simulate(darcy, out / "solutions", solutions, seed=seed)
    operator = Operator(darcy.prior, darcy.observables, net, seed=seed)
    surrogate = train(operator, solved, out / "surrogate", recipe=Recipe(epochs=epochs, batch=20), seed=seed)

    truth, emulated = observed(darcy, GAUGES), observed(Emulator(surrogate, darcy), GAUGES)
    rows = simulate(emulated, out / "simulations", simulations, seed=seed + 1)
    first = train(Flow(emulated.prior, emulated.observables, seed=seed), rows, out / "fit", seed=seed)

    theta = torch.tensor([[4.0, 12.0]])
    fields = darcy(theta, generator=torch.Generator().manual_seed(seed + 2))
    clean = truth.measured(fields["u"])[0]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed + 3))
    data = {"y": clean + GAUGES.sd * noise}
    short = Recipe(epochs=12)  # with more of them it gets overconfident
    posterior = correct(first, truth, data, out / "corrected", runs=runs, recipe=short, seed=seed + 4)
    fresh = simulate(truth, out / "calibration_simulations", 1_000, seed=seed + 5, proposal=posterior.truncation)
    calibration = calibrate(posterior.local, fresh, out)
    answer = query(posterior, data, calibration, simulator=truth, out=out, seed=seed)

    band = conformal(surrogate, simulate(darcy, out / "band_solutions", 200, seed=seed + 6))
    draw_fields(out / "fields.png", darcy, surrogate.surrogate, Batch(theta, fields), band)
    return answer
