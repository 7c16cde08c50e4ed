"""Minerals in a rock: the exact posterior against Bayes' rule, and against its own simulations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import stats

from sciinf.core import load_simulator

FILE = Path(__file__).parents[2] / "simulators" / "mineral_fractions.py"
COUNTS = torch.tensor([[94, 171, 32, 3]])


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FILE)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_fractions_make_up_a_whole(simulator):
    theta = simulator.prior.sample(100, generator=generator(0))
    assert simulator.prior.names == ("quartz", "feldspar", "mica", "rest")
    assert not simulator.prior.mixed
    assert simulator.prior.bijection.size == 3
    assert torch.allclose(theta.sum(-1), torch.ones(100, dtype=theta.dtype), atol=1e-6)
    assert bool((simulator(theta, generator=generator(1))["points"].sum(-1) == 300).all())


def test_likelihood_is_the_multinomial_law(simulator):
    theta = simulator.prior.sample(5, generator=generator(2)).double()
    truth = stats.multinomial.logpmf(COUNTS.numpy(), 300, (theta / theta.sum(-1, keepdim=True)).numpy())
    assert simulator.log_likelihood(theta, {"points": COUNTS}).numpy() == pytest.approx(truth, rel=1e-6)


def test_posterior_is_prior_times_likelihood(simulator):
    # log p(theta | x) - log p(theta) - log p(x | theta) is the same number wherever it is taken: -log p(x)
    theta = simulator.exact(COUNTS).expand((50,)).sample()
    found = simulator.exact(COUNTS).log_prob(theta)
    rest = found - simulator.prior.log_prob(theta) - simulator.log_likelihood(theta, {"points": COUNTS})
    truth = -stats.dirichlet_multinomial.logpmf(COUNTS[0].numpy(), [3.0, 5.0, 2.0, 1.0], 300)
    assert rest.numpy() == pytest.approx(truth, abs=1e-3)
    worse = simulator.exact(COUNTS + 1).log_prob(theta) - found  # the fault: one point more of each
    assert float(worse.std()) > 0.01


def test_simulated_counts_have_the_moments(simulator):
    # 20,000 simulations at one place: each mean within 5 standard errors (false alarm 2e-6 for the four); variances 5 %
    fractions = torch.tensor([0.3, 0.5, 0.15, 0.05], dtype=torch.float64)
    counts = simulator(fractions.expand(20_000, 4), generator=generator(3))["points"].double()
    variance = 300 * fractions * (1 - fractions)
    assert bool(((counts.mean(0) - 300 * fractions).abs() < 5 * (variance / 20_000).sqrt()).all())
    assert torch.allclose(counts.var(0), variance, rtol=0.05)


def test_truths_are_draws_of_their_posteriors(simulator):
    # 5,000 truths with their data: each fraction's place in its beta law is uniform (KS, p > 1e-4: 4 false alarms in
    # 10,000), and in the law without the prior it is not
    theta = simulator.prior.sample(5_000, generator=generator(4)).double()
    counts = simulator(theta, generator=generator(5))["points"]

    def p_value(alpha, i):
        rest = alpha.sum(-1) - alpha[:, i]
        return stats.kstest(stats.beta.cdf(theta[:, i].numpy(), alpha[:, i].numpy(), rest.numpy()), "uniform").pvalue

    assert min(p_value(simulator.exact(counts).concentration, i) for i in range(4)) > 1e-4
    assert p_value(counts.double() + 1e-3, 3) < 1e-4  # the fault


def test_draws_are_of_the_exact_posterior(simulator):
    # 20,000 draws: means within 5 standard errors (false alarm 2e-6), sds within 5 %
    exact = simulator.exact(COUNTS[0])
    draws = simulator.reference({"points": COUNTS}, 20_000, generator(6)).double()
    assert bool(((draws.mean(0) - exact.mean).abs() < 5 * exact.stddev / 20_000**0.5).all())
    assert torch.allclose(draws.std(0), exact.stddev, rtol=0.05)
