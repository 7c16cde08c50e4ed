"""Influenza in a boarding school: infectious at once (SIR) or latent at first (SEIR)? Probabilities of two models.

sciinf run pipelines/two_epidemics.py --out runs/two_epidemics

Which model it was is a parameter. Those that both have are shared, and `SEIR.sigma` exists in SEIR alone. The answer is
corrected by the likelihood of each model, so that the evidence of each comes with it.
"""

from __future__ import annotations

from pathlib import Path

from sciinf import Answer, Mixed, build_posterior, calibrate, load_simulator, query, simulate, train

SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(out: Path, *, seed: int = 0, simulations: int = 60_000, fresh: int = 10_000, ess: float = 5_000) -> Answer:
    """Probabilities of SIR and SEIR, and the rates of each.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on.
        fresh: Simulations to calibrate with.
        ess: Effective sample size of the answer.
    """
    simulator = load_simulator(SIMULATORS / "two_epidemics.py")
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    fit = train(Mixed(simulator.prior, simulator.observables, seed=seed), store, out / "fit", seed=seed)

    held = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), held, out)

    data = simulator.observe(SIMULATORS / "influenza_1978.csv")
    return query(build_posterior(fit, simulator, ess=ess), data, calibration, simulator=simulator, out=out, seed=seed)
