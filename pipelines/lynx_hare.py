"""Lynx and hare in Hudson Bay, 1900-1920: from a predator-prey model and 42 numbers to its eight parameters.

sciinf run pipelines/lynx_hare.py --out runs/lynx_hare
"""

from __future__ import annotations

from pathlib import Path

from sciinf import Answer, Flow, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.summaries.vector import MLP

SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(out: Path, *, seed: int = 0, simulations: int = 600_000, ess: float = 10_000) -> Answer:
    """The Hudson Bay posterior, corrected by the true likelihood.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on.
        ess: Effective sample size of the answer.
    """
    simulator = load_simulator(SIMULATORS / "lotka_volterra.py")
    store = simulate(simulator, out / "simulations", simulations, seed=seed)

    # The prior allows populations over many decades, so the summary has to resolve a narrow part of a wide range.
    summary, flow = MLP(features=64, hidden=(256, 256)), SplineCoupling(hidden=64)
    estimator = Flow(simulator.prior, simulator.observables, summary=summary, flow=flow, seed=seed)
    fit = train(estimator, store, out / "fit", seed=seed)

    fresh = simulate(simulator, out / "calibration_simulations", 10_000, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), fresh, out)

    posterior = build_posterior(fit, simulator, ess=ess)
    data = simulator.observe(SIMULATORS / "hudson_bay.csv")
    return query(posterior, data, calibration, simulator=simulator, out=out, seed=seed)
