"""The thrown ball: its exact posterior against Bayes' rule done numerically, and against its own simulations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sciinf.core import load_simulator

FILE = Path(__file__).parents[2] / "simulators" / "linear_gaussian.py"
X_O = torch.tensor([[2.9, 4.6, 5.1, 3.9, 1.2]], dtype=torch.float64)


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FILE)


def weighted_moments(theta, log_weight):
    weight = torch.softmax(log_weight, dim=0)
    mean = weight @ theta
    return mean, (theta - mean).T @ ((theta - mean) * weight[:, None]), 1 / (weight**2).sum()


def bayes_by_importance(simulator, likelihood, n=40_000):
    """Posterior mean and covariance from prior and likelihood alone, with draws of a widened Gaussian."""
    mean, covariance = simulator.exact({"x": X_O})
    wide = torch.distributions.MultivariateNormal(mean[0], 1.7 * covariance)
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = mean + noise @ wide.scale_tril.T
    log_weight = likelihood(theta, {"x": X_O}) + simulator.prior.log_prob(theta) - wide.log_prob(theta)
    return weighted_moments(theta, log_weight)


def agrees(simulator, mean, covariance, ess):
    """Whether moments are those of the exact posterior: within 5 standard errors (false alarm 1e-5 for the nine)."""
    true_mean, true_covariance = simulator.exact({"x": X_O})
    sd = true_covariance.diagonal().sqrt()
    scale = sd[:, None] * sd
    near = ((mean - true_mean[0]).abs() < 5 * sd / ess**0.5).all()
    return bool(near & ((covariance - true_covariance).abs() < 5 * 2**0.5 * scale / ess**0.5).all())


def test_exact_posterior_is_bayes_rule(simulator):
    mean, covariance, ess = bayes_by_importance(simulator, simulator.log_likelihood)
    assert ess > 10_000
    assert agrees(simulator, mean, covariance, ess)


def test_a_wrong_likelihood_is_noticed(simulator):
    # planted fault: noise of half the variance
    mean, covariance, ess = bayes_by_importance(simulator, lambda t, x: 2 * simulator.log_likelihood(t, x))
    assert not agrees(simulator, mean, covariance, ess)


def test_likelihood_is_the_normal_density(simulator):
    theta = simulator.prior.sample(5, generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor([0.2, 0.6, 1.0, 1.4, 1.8], dtype=torch.float64)
    mean = theta[:, :1] + theta[:, 1:2] * t + theta[:, 2:] * t**2 / 2
    truth = torch.distributions.Normal(mean, 0.5).log_prob(X_O).sum(-1)
    assert torch.allclose(simulator.log_likelihood(theta, {"x": X_O}), truth)


def test_truths_are_draws_of_their_posteriors(simulator):
    # Whitened by the exact posterior, truths drawn with their data are N(0, I): 20,000 rows, each entry of mean and
    # covariance within 5 standard errors, false alarm 1e-5.
    generator = torch.Generator().manual_seed(2)
    theta = simulator.prior.sample(20_000, generator=generator)
    mean, covariance = simulator.exact(simulator(theta, generator=generator))
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (theta - mean).T, upper=False)
    assert float(white.mean(-1).abs().max()) < 5 / 20_000**0.5
    assert float((torch.cov(white) - torch.eye(3)).abs().max()) < 5 * 2**0.5 / 20_000**0.5


def test_reference_draws_are_the_exact_posterior(simulator):
    draws = simulator.reference({"x": X_O}, 20_000, torch.Generator().manual_seed(4)).double()
    assert agrees(simulator, *weighted_moments(draws, torch.zeros(20_000, dtype=torch.float64)))


def test_the_posterior_is_correlated_and_much_narrower_than_the_prior(simulator):
    _, covariance = simulator.exact(X_O)
    sd = covariance.diagonal().sqrt()
    assert float((covariance / (sd[:, None] * sd)).tril(-1).abs().max()) > 0.8
    assert bool((sd < torch.tensor([0.5, 3.0, 3.0]) * 0.9).all())
