"""A fit of the thrown ball, its calibration, and simulations to ask about, some of which failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sciinf import Flow, Recipe, Simulator, build_posterior, calibrate, load_simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Calibration, Fit, Outcome, Posterior, Status, X

ROWS, BLOCK = 300, 70


@dataclass(frozen=True)
class Ball:
    """What the tests ask."""

    simulator: Simulator
    fit: Fit
    posterior: Posterior
    calibration: Calibration
    store: Store
    trained_on: Store


class Failing(Simulator):
    """The thrown ball, of which some simulations fail whatever the parameters are."""

    def __init__(self, ball: Simulator) -> None:
        self.ball, self.name, self.prior, self.observables = ball, "failing", ball.prior, ball.observables

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X | Outcome:
        x = dict(self.ball(theta, generator=generator))  # type: ignore[arg-type]
        status = torch.zeros(len(theta), dtype=torch.uint8)
        status[3], status[5] = int(Status.RAISED), int(Status.NON_FINITE)
        return Outcome(x, status, {3: "no solution", 5: "not a number"})


@pytest.fixture(scope="package")
def ball(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Ball:
    folder = tmp_path_factory.mktemp("ball")
    simulator = load_simulator(root / "simulators" / "linear_gaussian.py")
    trained_on = simulate(simulator, folder / "simulations", 2_000, progress=False)
    fit = train(Flow(simulator.prior, simulator.observables), trained_on, folder / "fit", recipe=Recipe(epochs=5))
    posterior = build_posterior(fit)
    fresh = simulate(simulator, folder / "fresh", 900, seed=1, progress=False)
    calibration = calibrate(posterior, fresh, folder, scores=[], progress=False)
    store = simulate(Failing(simulator), folder / "observed", ROWS, seed=2, block=BLOCK, progress=False)
    return Ball(simulator, fit, posterior, calibration, store, trained_on)
