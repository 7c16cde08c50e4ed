"""Boarding-school influenza: solver, likelihood and posterior against independent computations."""

from __future__ import annotations

import functools
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
COUNTS = [3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4]
POSTERIOR = {"beta": (1.737, 0.054), "gamma": (0.541, 0.046), "phi_inv": (0.139, 0.077)}
"""Mean and sd by 48 walkers of emcee on an independent implementation."""


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER / "influenza.py")


@pytest.fixture(scope="module")
def module(simulator):
    return next(m for m in list(sys.modules.values()) if getattr(m, "simulator", None) is simulator)


@pytest.fixture(scope="module")
def observed(simulator):
    return {k: v[None] for k, v in simulator.observe(FOLDER / "influenza_1978.csv").items()}


@pytest.fixture(scope="module")
def theta(simulator):
    return simulator.prior.sample(40, generator=torch.Generator().manual_seed(0))


@functools.cache  # two tests ask for the same parameters
def adaptive(beta, gamma):
    """I(t) on the days 1 to 14 by scipy at tolerance 1e-11."""

    def field(_, state):
        infections = beta * state[0] * state[1] / 763
        return [-infections, infections - gamma * state[1]]

    return solve_ivp(field, (0, 14), [762.0, 1.0], t_eval=range(1, 15), rtol=1e-11, atol=1e-13).y[1]


def independent_log_likelihood(theta, counts):
    beta, gamma, phi_inv = map(float, theta)
    mean, size = np.maximum(adaptive(beta, gamma), 1e-10), 1 / phi_inv
    return stats.nbinom.logpmf(counts, size, size / (size + mean)).sum()


def test_data_prior_and_observable(simulator, observed):
    assert observed["in_bed"].tolist() == [COUNTS]
    assert simulator.prior.names == ("beta", "gamma", "phi_inv")
    assert simulator.prior.units == ("1/day", "1/day", "")
    spec = simulator.observables["in_bed"]
    assert (spec.shape, spec.dims, spec.unit, spec.dtype) == ((14,), ("time",), "", "int64")
    theta = torch.tensor([1.5, 0.6, 0.2], dtype=torch.float64)
    expected = stats.truncnorm.logpdf(1.5, -2.0, np.inf, 2.0, 1.0) + stats.truncnorm.logpdf(0.6, -0.8, np.inf, 0.4, 0.5)
    expected += stats.expon.logpdf(0.2, scale=0.2)
    assert float(simulator.prior.log_prob(theta)) == pytest.approx(expected, rel=1e-6)


def worst_solver_error(module, theta, steps):
    import jax

    found = jax.vmap(lambda b, g: module.infectious(b, g, steps))(theta[:, 0].numpy(), theta[:, 1].numpy())
    truth = np.array([adaptive(float(b), float(g)) for b, g in theta[:, :2]])
    return np.abs(np.log(np.asarray(found, dtype=float) / truth)).max()


@pytest.mark.slow
def test_the_solver_has_converged(module, theta):
    posterior = torch.tensor([[1.6, 0.45, 0.1], [1.737, 0.541, 0.1], [1.9, 0.65, 0.1]])
    extreme = torch.tensor([[6.0, 0.01, 0.1], [6.0, 2.5, 0.1]])
    assert worst_solver_error(module, posterior, module.STEPS_PER_DAY) < 2e-5
    assert worst_solver_error(module, torch.cat([theta, extreme]), module.STEPS_PER_DAY) < 2e-3
    assert worst_solver_error(module, extreme, 2) > 2e-3  # planted fault: too few steps


@pytest.mark.slow
def test_log_likelihood_is_the_negative_binomial_by_hand(simulator, theta, observed):
    # within the solver's error; the statistics of hopeless parameters (-10,000 nats) are compared relatively
    truth = np.array([independent_log_likelihood(row, observed["in_bed"][0].numpy()) for row in theta.double().numpy()])
    assert np.allclose(simulator.log_likelihood(theta, observed).numpy(), truth, rtol=1e-4, atol=1e-4)
    near = torch.tensor([[1.737, 0.541, 0.139], [1.7, 0.5, 1e-3], [1.75, 0.55, 1e-6]])
    truth = np.array([independent_log_likelihood(row, np.array(COUNTS)) for row in near.double().numpy()])
    value = simulator.log_likelihood(near, observed).numpy()
    assert np.allclose(value, truth, rtol=1e-5, atol=1e-3)
    shifted = simulator.log_likelihood(near, {"in_bed": observed["in_bed"].roll(1)}).numpy()  # planted fault
    assert not np.allclose(shifted, truth, rtol=1e-2)


@pytest.mark.slow
def test_simulated_counts_have_the_right_moments(simulator):
    # 4,000 simulations at one parameter: mean and variance of each day within 5 standard errors (28 checks, false
    # alarm below 1 in 10,000 for the means; the variances' error is taken from the sample's fourth moment)
    theta = torch.tensor([[1.737, 0.541, 0.139]]).expand(4_000, 3)
    with hastily_compiled():
        outcome = simulator(theta, generator=torch.Generator().manual_seed(1))
    counts = outcome.x["in_bed"].double().numpy()
    mean = adaptive(1.737, 0.541)
    variance = mean + 0.139 * mean**2
    centred = counts - mean
    assert (np.abs(centred.mean(0)) < 5 * np.sqrt(variance / len(counts))).all()
    assert (np.abs((centred**2).mean(0) - variance) < 5 * (centred**2).std(0) / np.sqrt(len(counts))).all()


@pytest.mark.slow
def test_prior_predictive(simulator):
    theta = simulator.prior.sample(
        4_000, generator=torch.Generator().manual_seed(2)
    )  # what is compiled for the moments
    theta[:4, 2] = torch.tensor([1e-30, 1e-9, 3.0, 10.0])
    with hastily_compiled():
        outcome = simulator(theta, generator=torch.Generator().manual_seed(3))
    counts = outcome.x["in_bed"]
    assert counts.shape == (4_000, 14)
    assert counts.dtype == torch.int64
    assert int(outcome.status.sum()) == 0
    assert int(counts.min()) >= 0
    assert int(counts.max()) < 200_000
    assert bool(simulator.log_likelihood(theta, outcome.x).isfinite().all())


@pytest.mark.slow
def test_reference_posterior_of_the_real_data(simulator, observed):
    # 1,000 draws of NUTS, some 500 effective, against a reference of some 1,600: the difference of the means has a
    # standard error of 0.05 sd, so 0.15 sd is 3 of them (seeded); sds agree within 15 %.
    draws = simulator.reference(observed, 1_000, torch.Generator().manual_seed(0)).double()
    for column, name in zip(draws.T, simulator.prior.names, strict=True):
        mean, sd = POSTERIOR[name]
        assert abs(float(column.mean()) - mean) < 0.15 * sd
        assert 0.85 < float(column.std()) / sd < 1.15
    assert float((draws[:, 0] / draws[:, 1]).mean()) == pytest.approx(3.23, abs=0.04)
    assert float((1 / draws[:, 1]).mean()) == pytest.approx(1.86, abs=0.03)
