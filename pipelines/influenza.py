"""Influenza in an English boarding school, January 1978: an epidemic model from fourteen daily counts.

sciinf run pipelines/influenza.py --out runs/influenza
"""

from __future__ import annotations

from pathlib import Path

from sciinf import Answer, Flow, build_posterior, calibrate, load_simulator, query, simulate, train

SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(out: Path, *, seed: int = 0, simulations: int = 100_000, ess: float = 5_000) -> Answer:
    """Posterior of infection rate, recovery rate and dispersion, corrected by the true likelihood.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on.
        ess: Effective sample size of the answer.
    """
    simulator = load_simulator(SIMULATORS / "influenza.py")
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    fit = train(Flow(simulator.prior, simulator.observables, seed=seed), store, out / "fit", seed=seed)

    fresh = simulate(simulator, out / "calibration_simulations", 10_000, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), fresh, out)

    posterior = build_posterior(fit, simulator, ess=ess)
    data = simulator.observe(SIMULATORS / "influenza_1978.csv")
    return query(posterior, data, calibration, simulator=simulator, out=out, seed=seed)
