"""The amortised posterior: the fitted density, told apart from its Jacobian's absence."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf.core import Fit, Observable, Prior
from sciinf.core.fit import campaign_of
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.posteriors.amortised import Amortised
from sciinf.training.estimators.flow import Flow

PRIOR = Prior(a=(td.Uniform(-1.0, 3.0), "m"), b=td.LogNormal(0.0, 0.5))
OBSERVABLES = {"x": Observable((3,))}
SIMULATOR = {"name": "made up", "source": "00"}


@pytest.fixture
def posterior(tmp_path):
    flow = Flow(PRIOR, OBSERVABLES, flow=MAF(2, (8,)), seed=3).eval()
    return Amortised(Fit(flow, "digest", SIMULATOR, {"store": {"digest": "d", "seed": 4}}, tmp_path))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_says_what_it_is(posterior):
    assert (posterior.name, posterior.digest) == ("amortised", "digest")
    assert posterior.trained_on == {"d", campaign_of(SIMULATOR, 4)}
    assert posterior.prior is PRIOR
    assert posterior.observables == OBSERVABLES


def test_draws_are_those_of_the_estimator(posterior):
    x = {"x": torch.randn(1, 3, generator=generator())}
    draws = posterior.draw(x, 50, generator=generator(1))
    assert torch.equal(draws.theta, posterior.estimator.condition(x).sample(50, generator=generator(1))[:, 0])
    assert (draws.names, draws.units, draws.ess) == (("a", "b"), ("m", ""), pytest.approx(50))
    assert draws.log_evidence is None
    assert draws.pareto_k is None


def test_batch_is_observation_by_observation(posterior):
    x = torch.randn(4, 3, generator=generator())
    theta = PRIOR.sample(20, generator=generator(1)).reshape(5, 4, 2)
    together = posterior.log_prob_batched(theta, {"x": x})
    apart = [posterior.log_prob_batched(theta[:, i : i + 1], {"x": x[i : i + 1]}) for i in range(4)]
    assert torch.allclose(together, torch.cat(apart, dim=1), atol=1e-5)
    assert posterior.draw_batched({"x": x}, 7, generator=generator()).shape == (7, 4, 2)
    assert posterior.features({"x": x}).shape == (4, 3)
    assert not posterior.features({"x": x}).requires_grad


def test_theta_that_does_not_fit_the_observations_is_refused(posterior):
    x = {"x": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 2, 2\)"):
        posterior.log_prob_batched(torch.ones(4, 1, 2), x)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 2, 2\)"):
        posterior.log_prob_batched(torch.ones(4, 2, 3), x)


def test_double_precision_theta_has_the_same_density(posterior):
    x = {"x": torch.zeros(1, 3)}
    theta = PRIOR.sample(20, generator=generator(1))[:, None]
    single, double = posterior.log_prob_batched(theta, x), posterior.log_prob_batched(theta.double(), x)
    assert torch.allclose(single, double, atol=1e-4)
    assert posterior.log_prob_batched(theta[:0], x).shape == (0, 1)


def test_outside_the_prior_there_is_nothing(posterior):
    theta = torch.tensor([[-1.1, 1.0], [3.1, 1.0], [0.0, -0.1], [float("nan"), 1.0], [0.0, float("inf")]])
    assert bool((posterior.log_prob_batched(theta[:, None], {"x": torch.zeros(1, 3)}) == -torch.inf).all())
