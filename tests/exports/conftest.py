"""An answer with everything in it: units of several kinds, weights, evidence, data, predictive draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf import core
from sciinf.core import Answer, Calibration, Draws, Estimate, Observable, Prior, Trust


@pytest.fixture(scope="session")
def prior() -> Prior:
    return Prior(
        rate=(td.LogNormal(0.0, 0.5), "1/h"),
        mass_1=(td.Uniform(5.0, 50.0), "solMass"),
        offset=td.Normal(0.0, 1.0),
        depth=(core.Truncated(td.Normal(1.0, 0.5), low=0.0), "km / (s Mpc)"),
    )


@pytest.fixture(scope="session")
def observables() -> dict[str, Observable]:
    return {"counts": Observable((4,), "mV", ("time",)), "seen_mask": Observable((4,), "", ("time",), dtype="bool")}


@pytest.fixture(scope="session")
def plain_draws(prior: Prior) -> Draws:
    theta = prior.sample(400, generator=torch.Generator().manual_seed(2))
    return Draws(prior.names, prior.units, theta, torch.zeros(400))


@pytest.fixture(scope="session")
def draws(prior: Prior, plain_draws: Draws) -> Draws:
    log_weight = torch.randn(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    log_weight[7] = -torch.inf
    return Draws(prior.names, prior.units, plain_draws.theta, log_weight, -12.5, 0.04, 0.2)


@pytest.fixture(scope="session")
def answer(draws: Draws) -> Answer:
    rng = np.random.default_rng(0)
    mean, sd = draws.mean(), draws.sd()
    parameters = {
        name: Estimate(float(mean[i]), float(sd[i]), float(mean[i]), (0.0, 1.0), 0.9, draws.units[i])
        for i, name in enumerate(draws.names)
    }
    calibration = Calibration(
        draws.names,
        ranks=np.zeros((3, 4), dtype=np.int64),
        draws=10,
        levels=np.array([0.5]),
        coverage=np.array([0.5]),
        tarp=np.array([0.5]),
        p_values={"ranks": 0.4},
        gaps={"coverage": 0.01},
        of="the amortised posterior",
        fit="f",
        simulations="s",
        failed_rows=0,
        state="passed",
        reasons=("coverage within 1 point",),
    )
    observation = {"counts": np.arange(4.0, dtype=np.float32), "seen_mask": np.array([True, True, False, True])}
    predictive = {"counts": rng.normal(size=(6, 4)), "seen_mask": np.ones((6, 4), dtype=bool)}
    return Answer(
        parameters, draws, calibration, Trust(0.3, "looks like the simulations", "good"), observation, predictive
    )
