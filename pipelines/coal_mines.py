"""Disasters in British coal mines: how often their rate changed, when, and to what, from 112 yearly counts.

sciinf run pipelines/coal_mines.py --out runs/coal_mines

How many changes there are is a parameter, and so are their times and the rates between them, as many as there are.
`Changes` says which these are: all ways to place them are added up, and the law of the counts between them is learned.
The answer is corrected by the likelihood.
"""

from __future__ import annotations

from pathlib import Path

from sciinf import Answer, Changes, Mixed, Recipe, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.networks.summaries import MLP

SIMULATORS = Path(__file__).parent.parent / "simulators"
CHANGES = Changes("disasters", "tau", list(range(1851, 1963)), values="rate")
RECIPE = Recipe(
    epochs=1,
    batch=128,
    learning_rate=0.01,
    optimiser="adamw",
    weight_decay=0.0,
    clip=1.0,
    ema=0.0,
    validation_fraction=0.02,
)


def run(out: Path, *, seed: int = 0, simulations: int = 480_000, fresh: int = 10_000, ess: float = 5_000) -> Answer:
    """Probabilities of 0 to 3 changes, their times and rates.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on; each is seen once.
        fresh: Simulations to calibrate with.
        ess: Effective sample size of the answer.
    """
    simulator = load_simulator(SIMULATORS / "coal_mines.py")
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    estimator = Mixed(simulator.prior, simulator.observables, summary=MLP(), changes=CHANGES, seed=seed)
    fit = train(estimator, store, out / "fit", recipe=RECIPE, seed=seed)

    held = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), held, out)

    data = simulator.observe(SIMULATORS / "coal_mines_1851.csv")
    return query(build_posterior(fit, simulator, ess=ess), data, calibration, simulator=simulator, out=out, seed=seed)
