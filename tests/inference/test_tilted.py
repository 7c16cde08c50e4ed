"""A posterior times a factor: means, densities and evidence against integrals on a grid."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from sciinf import Prior
from sciinf.core import Draws
from sciinf.inference.tilted import Tilted, by_likelihood

PRIOR = Prior(theta=(Normal(0.0, 1.0), "m"))
X = {"x": torch.zeros(1, 5)}


def log_factor(theta):
    """1 / P(ok) of failures that become frequent to the right."""
    return -torch.nn.functional.logsigmoid(-2 * theta[..., 0].double())


def exact():
    """Mean and log of the integral of N(.3, .5^2) times the factor."""
    grid = torch.linspace(-4, 5, 20_001, dtype=torch.float64)
    log_density = Normal(0.3, 0.5).log_prob(grid) + log_factor(grid[:, None])
    weight = log_density.softmax(0)
    return float(weight @ grid), float(log_density.logsumexp(0) + torch.log(grid[1] - grid[0]))


@pytest.fixture(scope="module")
def tilted(known):
    return Tilted(known(PRIOR, [[0.3]], [[0.5]]), log_factor, "1 / P(success)", "digest")


def test_weighted_draws_have_the_mean_of_the_product(tilted):
    draws = tilted.draw(X, 4_000, generator=torch.Generator().manual_seed(0))
    mean, _ = exact()
    # 4,000 effective draws of sd .55: an error of .009; five times that. Without the weights the mean is .19 off.
    assert float(draws.mean()) == pytest.approx(mean, abs=0.045)
    assert abs(0.3 - mean) > 0.15
    assert 3_900 < draws.ess < len(draws)
    assert draws.pareto_k is not None
    assert draws.pareto_k < 0.7
    batched = tilted.draw_batched({"x": torch.zeros(2, 5)}, 4_000, generator=torch.Generator().manual_seed(0))
    assert batched.shape == (4_000, 2, 1)
    assert batched.mean(0).flatten().tolist() == pytest.approx([mean, mean], abs=0.06)


def test_the_density_is_the_normalised_product(tilted):
    mean, log_integral = exact()
    theta = torch.tensor([[0.0], [mean], [1.5]])
    expected = Normal(0.3, 0.5).log_prob(theta[:, 0].double()) + log_factor(theta) - log_integral
    # The constant comes from 4,000 draws: an error of about one per cent.
    assert tilted.log_prob(theta, X).tolist() == pytest.approx(expected.tolist(), abs=0.05)


def test_evidence_takes_the_factor(tilted):
    theta = torch.tensor([[0.0], [1.0]])
    draws = Draws(("theta",), ("m",), theta, torch.tensor([0.0, 1.0]).double(), -3.0, 0.1)
    inner = Tilted.__new__(Tilted)
    inner.log_factor = log_factor
    found = Tilted._weighted(inner, draws)
    expected = -3.0 + float((draws.weights * log_factor(theta).exp()).sum().log())
    assert found.log_evidence == pytest.approx(expected)


def test_it_is_told_from_a_posterior_by_likelihood(tilted):
    assert not by_likelihood(tilted)
