"""An analysis in one file. Copy it to `pipelines/NAME.py`, change the paths, and say here what it finds out.

    sciinf run pipeline.py --out runs/mine

Keywords of `run` are options of the command: `--simulations 50000`. Each step keeps its result in the run folder, so
the same command after an interruption goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sciinf import Answer, Flow, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.core import Outcome

HERE = Path(__file__).parent


def run(out: Path, *, seed: int = 0, simulations: int = 20_000, fresh: int = 10_000, ess: float = 2_000) -> Answer:
    """The posterior of one observation.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on.
        fresh: Simulations to calibrate on; never the ones trained on.
        ess: Effective sample size of the answer, where the simulator has a `log_likelihood`.
    """
    simulator = load_simulator(HERE / "simulator.py")

    # 1. Simulate and train. `Flow(..., flow=..., summary=...)` takes other parts: docs/choosing.md.
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    fit = train(Flow(simulator.prior, simulator.observables, seed=seed), store, out / "fit", seed=seed)

    # 2. Check the fit on simulations it has never seen. Their seed must be another one.
    unseen = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), unseen, out)

    # 3. Ask. Yours is `data = simulator.observe(HERE / "my_data.csv")`; here a simulation stands in for the data.
    generator = torch.Generator().manual_seed(seed + 2)
    outcome = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
    data = outcome.x if isinstance(outcome, Outcome) else outcome
    posterior = build_posterior(fit, simulator, ess=ess)
    return query(posterior, data, calibration, simulator=simulator, out=out, seed=seed)
