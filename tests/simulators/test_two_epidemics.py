"""SIR or SEIR: the latent model against independent computations, and each row against the model it says it is of."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hasty import hastily_compiled
from scipy import stats
from scipy.integrate import solve_ivp

from sciinf.core import load_simulator

FOLDER = Path(__file__).parents[2] / "simulators"


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER / "two_epidemics.py")


@pytest.fixture(scope="module")
def module(simulator):
    return next(
        m for n, m in list(sys.modules.items()) if "two_epidemics" in n and vars(m).get("simulator") is simulator
    )


@pytest.fixture(scope="module")
def observed(simulator):
    return {k: v[None] for k, v in simulator.observe(FOLDER / "influenza_1978.csv").items()}


@pytest.fixture(scope="module")
def theta(simulator):
    return simulator.prior.sample(40, generator=torch.Generator().manual_seed(0))


def adaptive(beta, gamma, sigma):
    """I(t) on the days 1 to 14 by scipy at tolerance 1e-11."""

    def field(_, state):
        infections = beta * state[0] * state[2] / 763
        return [-infections, infections - sigma * state[1], sigma * state[1] - gamma * state[2]]

    return solve_ivp(field, (0, 14), [762.0, 0.0, 1.0], t_eval=range(1, 15), rtol=1e-11, atol=1e-13).y[2]


def test_the_prior_of_both(simulator, theta):
    assert simulator.prior.names == ("model", "beta", "gamma", "phi_inv", "SEIR.sigma")
    assert simulator.prior.units == ("", "1/day", "1/day", "", "1/day")
    assert simulator.prior.discrete()["model"].labels == ("SIR", "SEIR")
    assert bool((theta[:, 4].isnan() == (theta[:, 0] == 0)).all())
    assert not bool(theta[:, :4].isnan().any())


def test_the_latent_model_is_solved(module, theta):
    import jax

    rows = np.vstack([theta[theta[:, 0] == 1][:8][:, [1, 2, 4]].numpy(), [[3.0, 0.5, 1.0], [6.0, 0.1, 6.0]]])
    found = np.asarray(jax.vmap(module.infectious)(*rows.astype(np.float64).T), dtype=float)
    truth = np.array([adaptive(*map(float, row)) for row in rows])
    assert np.abs(np.log(found / truth)).max() < 2e-3
    swapped = np.asarray(jax.vmap(module.infectious)(*rows[:, [0, 2, 1]].astype(np.float64).T), dtype=float)
    assert np.abs(np.log(swapped / truth)).max() > 2e-3  # the fault: one rate for the other


@pytest.mark.slow
def test_each_row_has_the_likelihood_of_its_model(simulator, observed):
    counts = observed["in_bed"][0].numpy()
    theta = torch.tensor([[1.0, 3.0, 0.5, 0.1, 1.0], [0.0, 1.737, 0.541, 0.139, torch.nan]])
    sir = load_simulator(FOLDER / "influenza.py")
    found = simulator.log_likelihood(theta, observed)
    assert float(found[1]) == pytest.approx(float(sir.log_likelihood(theta[1:, 1:4], observed)[0]), rel=1e-6)
    mean = adaptive(3.0, 0.5, 1.0)
    assert float(found[0]) == pytest.approx(stats.nbinom.logpmf(counts, 10.0, 10.0 / (10.0 + mean)).sum(), abs=1e-2)


@pytest.mark.slow
def test_each_row_is_simulated_by_its_model(simulator):
    # 2,000 simulations of each at one place: means of each day within 5 standard errors (28 checks, false alarm 2e-5),
    # and none within those of the other model
    theta = torch.tensor([[0.0, 1.7, 0.5, 0.1, torch.nan], [1.0, 1.7, 0.5, 0.1, 1.0]]).repeat(2_000, 1)
    with hastily_compiled():
        counts = simulator(theta, generator=torch.Generator().manual_seed(1)).x["in_bed"].double().numpy()
    means = [adaptive(1.7, 0.5, 1e3), adaptive(1.7, 0.5, 1.0)]  # latent for a thousandth of a day is not latent
    for model in (0, 1):
        own = counts[model::2].mean(0)
        error = np.sqrt((means[model] + 0.1 * means[model] ** 2) / 2_000)
        assert (np.abs(own - means[model]) < 5 * error + 2e-3 * means[model]).all()
        assert (np.abs(own - means[1 - model])[3:] > 5 * error[3:]).all()
