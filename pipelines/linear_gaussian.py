"""A linear model with Gaussian noise, whose posterior is known: what the tests measure the whole workflow against.

sciinf run pipelines/linear_gaussian.py --out runs/linear_gaussian
"""

from __future__ import annotations

from pathlib import Path

import torch

from sciinf import Answer, Flow, build_posterior, calibrate, load_simulator, query, simulate, train

SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(out: Path, *, seed: int = 0, simulations: int = 50_000, fresh: int = 10_000) -> Answer:
    """The amortised posterior, uncorrected, for one observation drawn from the prior.

    Args:
        out: Run folder.
        seed: Seeds everything, the observation included.
        simulations: Simulations to train on.
        fresh: Simulations to calibrate on.
    """
    simulator = load_simulator(SIMULATORS / "linear_gaussian.py")
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    fit = train(Flow(simulator.prior, simulator.observables, seed=seed), store, out / "fit", seed=seed)

    unseen = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), unseen, out)

    generator = torch.Generator().manual_seed(seed + 2)
    data = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
    return query(build_posterior(fit), data, calibration, simulator=simulator, out=out, seed=seed)
