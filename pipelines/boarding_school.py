"""Influenza in a boarding school as jumps of whole boys, and beside that the answer of the equations.

sciinf run pipelines/boarding_school.py --out runs/boarding_school

The likelihood of the jumps is a particle filter's estimate. As a weight of draws it is as good as the exact one. The
equations leave the chance of an epidemic's first days out, and so are surer of the rate of infection than they can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sciinf import Answer, Flow, Recipe, build_posterior, calibrate, load_simulator, query, simulate, train

RECIPE = Recipe(epochs=25)  # more only fit what these simulations have at random
SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(out: Path, *, seed: int = 0, simulations: int = 20_000, fresh: int = 5_000, ess: float = 2_000) -> Answer:
    """Rates of infection and recovery, and the dispersion of the counts.

    Args:
        out: Run folder; the answer of the equations goes into its `by_equations`.
        seed: Seeds everything.
        simulations: Simulations to train on, of each model.
        fresh: Simulations to calibrate with, of each.
        ess: Effective sample size of the answers; a draw takes milliseconds of the filter, so it sets the time.
    """
    how = (seed, simulations, fresh, ess)
    equations = asked("influenza.py", out / "by_equations", *how)
    return asked("sir_jumps.py", out, *how, beside={"by equations": equations})


def asked(
    file: str,
    out: Path,
    seed: int,
    simulations: int,
    fresh: int,
    ess: float,
    beside: Mapping[str, Answer] | None = None,
) -> Answer:
    """The answer of one model, from the simulations on."""
    simulator = load_simulator(SIMULATORS / file)
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    estimator = Flow(simulator.prior, simulator.observables, seed=seed)
    fit = train(estimator, store, out / "fit", recipe=RECIPE, seed=seed)

    held = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), held, out)

    # a quarter of the budget goes into a pilot
    posterior = build_posterior(fit, simulator, ess=ess, budget=int(8 * ess))
    data = simulator.observe(SIMULATORS / "influenza_1978.csv")
    return query(posterior, data, calibration, simulator=simulator, out=out, seed=seed, beside=beside)
