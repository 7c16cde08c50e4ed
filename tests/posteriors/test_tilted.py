"""A posterior times a factor: means, densities and evidence against integrals on a grid."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from sciinf import Prior, calibrate, simulate
from sciinf.core import Draws, Observable, Posterior, Simulator
from sciinf.diagnostics.failures import look
from sciinf.posteriors.reweighted import Reweighted
from sciinf.posteriors.tilted import Tilted, by_likelihood, judged_by_simulator, learned_without

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
    assert torch.equal(found.log_weight, draws.log_weight + log_factor(theta))


def test_it_is_told_from_a_posterior_by_likelihood(tilted):
    assert not by_likelihood(tilted)
    weighted = Reweighted(Exact(), Failing(), ess=100)
    for posterior in (weighted, Tilted(weighted, log_factor, "P(success)", "digest")):
        assert by_likelihood(posterior)
        assert judged_by_simulator(posterior)
        assert learned_without(posterior) == 0


class Failing(Simulator):
    """x = theta + noise, which fails more often to the right."""

    name, prior, observables = "failing", PRIOR, {"x": Observable((1,), "m")}

    def __call__(self, theta, *, generator):
        x = theta + 2 * torch.randn(len(theta), 1, generator=generator)
        fails = torch.rand(len(theta), 1, generator=generator) < 0.9 * torch.sigmoid(4 * theta)
        return {"x": torch.where(fails, torch.nan, x)}

    def log_likelihood(self, theta, x):
        return Normal(theta, 2.0).log_prob(x["x"].to(theta)).sum(-1)


class Exact(Posterior):
    """Its posterior under the prior as written, N(x / 5, 4 / 5)."""

    def __init__(self):
        self.name, self.digest, self.trained_on = "exact", "exact", frozenset()
        self.prior, self.observables = PRIOR, Failing.observables

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def draw_batched(self, x, n, *, generator):
        mean = x["x"] / 5
        return mean + torch.randn(n, *mean.shape, generator=generator) * 0.8**0.5

    def log_prob_batched(self, theta, x):
        return Normal(x["x"][:, 0] / 5, 0.8**0.5).log_prob(theta[..., 0])

    def features(self, x):
        return x["x"]


@pytest.mark.slow
def test_a_posterior_by_likelihood_is_calibrated_given_success(tmp_path):
    with pytest.warns(UserWarning, match="if failing depends on the parameters"):
        fresh = simulate(Failing(), tmp_path / "fresh", 800, progress=False)
    right = Reweighted(Exact(), Failing(), ess=50, budget=400)
    # theta of the rows that are left is given success. Three p-values, one below .003 in one of a hundred runs.
    found = calibrate(right, fresh, rows=400, draws=15, progress=False)
    assert min(found.p_values.values()) > 0.003
    # The same draws without the factor P(success), as what a network learned, are seen to be wrong.
    wrong = calibrate(Exact(), fresh, rows=400, draws=15, progress=False)
    assert min(wrong.p_values.values()) < 1e-4


def test_the_first_failure_is_looked_at_however_late(tmp_path):
    class Rarely(Failing):
        name, block = "rarely", 4

        def __call__(self, theta, *, generator):
            return {"x": torch.where(theta > 1.5, torch.nan, theta)}

    with pytest.warns(UserWarning, match="failed"):
        store = simulate(Rarely(), tmp_path / "store", 60, progress=False)
    first = store.failures()[0].row
    assert first > 5
    found = look(store, rows=5)
    assert found is not None
    assert (found.rows, found.failed) == (first + 1, 1)
