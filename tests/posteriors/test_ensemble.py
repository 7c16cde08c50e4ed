"""The ensemble: the mean of its members' densities, and draws that follow it."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf.core import Prior
from sciinf.posteriors.ensemble import Ensemble

PRIOR = Prior(mu=td.Normal(0.0, 10.0))
X = {"x": torch.zeros(1, 5)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def members(known):
    return [
        known(PRIOR, torch.tensor([[loc]]), torch.tensor([[sd]])) for loc, sd in ((-3.0, 0.5), (0.0, 1.0), (4.0, 2.0))
    ]


def distance(draws, members):
    """Kolmogorov-Smirnov p-value of 1-D draws against the equal mixture of the members."""
    from scipy.stats import kstest, norm

    laws = [(float(m.means), float(m.root)) for m in members]
    return float(kstest(draws, lambda t: sum(norm.cdf(t, *law) for law in laws) / len(laws)).pvalue)


def test_density_is_the_mean_of_densities(members):
    theta = torch.linspace(-6, 9, 31)[:, None, None]
    mean = torch.stack([m.log_prob_batched(theta, X).exp() for m in members]).mean(0)
    assert torch.allclose(Ensemble(members).log_prob_batched(theta, X).exp(), mean, rtol=1e-12)


def test_draws_follow_the_density(members):
    # false alarm 1e-4 each; the planted fault, draws of all members but one, must fail
    draws = Ensemble(members).draw(X, 4_000, generator=generator())
    assert distance(draws.theta[:, 0], members) > 1e-4
    assert draws.ess == pytest.approx(4_000)
    assert distance(Ensemble(members[:2]).draw(X, 4_000, generator=generator()).theta[:, 0], members) < 1e-4


def test_draws_of_a_batch_follow_the_density_for_each_observation(members):
    batch = {"x": torch.zeros(3, 5)}
    draws = Ensemble(members).draw_batched(batch, 2_000, generator=generator(1))
    assert draws.shape == (2_000, 3, 1)
    assert all(distance(draws[:, i, 0], members) > 1e-4 for i in range(3))
    assert abs(float(torch.corrcoef(draws[..., 0].T)[0, 1])) < 5 / 2_000**0.5
    # successive draws are unrelated, rather than member by member
    assert abs(float(torch.corrcoef(torch.stack([draws[1:, 0, 0], draws[:-1, 0, 0]]))[0, 1])) < 5 / 2_000**0.5


def test_same_seed_same_draws(members):
    ensemble = Ensemble(members)
    one, two, other = (ensemble.draw(X, 20, generator=generator(s)).theta for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert ensemble.draw(X, 1, generator=generator()).theta.shape == (1, 1)


def test_says_what_it_is(members):
    ensemble = Ensemble(members)
    assert ensemble.name == "ensemble of 3"
    assert ensemble.trained_on == {"store"}
    assert ensemble.digest != Ensemble(members[:2]).digest
    assert ensemble.features(X).shape == (1, 15)


def test_members_must_fit_each_other(members, known):
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])
    other = known(Prior(mu=td.Normal(0.0, 1.0)), torch.zeros(1, 1), torch.eye(1))
    with pytest.raises(ValueError, match="members differ"):
        Ensemble([*members, other])
