"""The posterior within a region: normalised for each observation, reweighted to the exact one, and what it says."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import distributions as td

from sciinf.core import Density, Estimator, Fit, Observable, Prior, Simulator
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.local import LocalPosterior, Sequential
from sciinf.posteriors.reweighted import Reweighted
from sciinf.posteriors.truncated import OutsideRegion, truncate

PRIOR = Prior(a=td.Uniform(-1.0, 1.0), b=td.Uniform(-1.0, 1.0))
SEEN = {"x": Observable((2,))}
X = {"x": torch.tensor([[0.2, -0.1]])}
THREE = {"x": torch.tensor([[0.2, -0.1], [0.3, -0.05], [0.1, -0.25]])}
SIMULATOR = {"name": "seen", "source": "00"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Round(Density):
    """N(centre, sd^2 I), one centre for each observation."""

    def __init__(self, centre, sd):
        self.law = td.Normal(centre.double(), sd)

    def sample(self, n, *, generator):
        noise = torch.randn(n, *self.law.loc.shape, generator=generator, dtype=torch.float64)
        return (self.law.loc + self.law.scale * noise).float()

    def log_prob(self, theta):
        return self.law.log_prob(theta.double()).sum(-1)


class Near(Estimator):
    """q(theta | x) = N(x + shift, sd^2 I), written down to stand where a trained one does."""

    def __init__(self, shift, sd):
        super().__init__()
        self.prior, self.observables, self.shift, self.sd = PRIOR, SEEN, shift, sd

    def standardise(self, batches):
        return None

    def loss(self, batch, *, generator):
        return -self.condition(batch.x).log_prob(batch.theta)

    def condition(self, x):
        return Round(x["x"] + self.shift, self.sd)

    def features(self, x):
        return x["x"]


class Seen(Simulator):
    """x ~ N(theta, 0.1^2 I); far from the edges of the prior its evidence is the prior's density, 1/4."""

    name, prior, observables = "seen", PRIOR, SEEN

    def __call__(self, theta, *, generator):
        return {"x": theta + 0.1 * torch.randn(theta.shape, generator=generator)}

    def log_likelihood(self, theta, x):
        return td.Normal(theta.double(), 0.1).log_prob(x["x"].double()).sum(-1)


def fitted(folder, shift=0.03, sd=0.12, proposal=None):
    about = {"store": {"digest": "d", "seed": 4, **({"proposal": proposal} if proposal else {})}}
    return Fit(Near(shift, sd), f"fit {shift} {sd}", SIMULATOR, about, folder)


@pytest.fixture
def local(tmp_path):
    """A region that holds four fifths of what was learned of X."""
    fit = fitted(tmp_path)
    return LocalPosterior(fit, truncate(fit, X, epsilon=0.2), frozenset(["store"]))


def masses(density, x):
    """Riemann sums over 400^2 points for each observation, exact but for the edge of the region."""
    steps = torch.linspace(-1, 1, 401)
    theta = torch.cartesian_prod(steps, steps)[:, None].expand(-1, len(x["x"]), 2)
    return density(theta, x).exp().sum(0) * 0.005**2


def test_its_density_is_normalised_for_each_observation(local):
    """The error of log Q at Q > 1/2 is below 1/64: five of them, false alarm below 2e-6; and 0.01 for the edge."""
    assert float((masses(local.log_prob_batched, THREE) - 1).abs().max()) < 5 / 64 + 0.01
    # planted fault: not divided by the mass in the region
    assert float((masses(local.unnormalised, THREE) - 1).abs().max()) > 5 / 64 + 0.01


def test_an_observation_has_the_same_density_in_any_batch(local):
    theta = local.draw_batched(THREE, 50, generator=generator())
    assert bool(torch.isfinite(local.log_prob_batched(theta, THREE)).all())
    apart = [local.log_prob_batched(theta[:, i : i + 1], {"x": THREE["x"][i : i + 1]}) for i in range(3)]
    assert torch.allclose(local.log_prob_batched(theta, THREE), torch.cat(apart, dim=1), rtol=1e-12)


@pytest.mark.parametrize("fault", ["", "not normalised", "drawn from the region alone"])
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.filterwarnings("ignore:only 79")
def test_reweighted_it_has_the_exact_evidence(local, fault, sequential):
    """log 1/4, and the mean of the posterior, within five errors, of Q and of the weights: false alarm below 2e-6."""
    posterior = Sequential(local, X, [local.truncation]) if sequential else local
    if fault == "not normalised":
        posterior.log_prob_batched = local.unnormalised
    posterior.whole = fault == "drawn from the region alone"
    draws = Reweighted(posterior, Seen(), ess=10_000).draw(X, 1_000, generator=generator(1))
    error = math.hypot(draws.log_evidence_error, math.sqrt((1 / 0.8 - 1) / (65_536 if sequential else 4_096)))
    assert (abs(draws.log_evidence - math.log(0.25)) < 5 * error) is (not fault)
    if not fault:
        assert float((draws.mean() - X["x"][0].double()).abs().max()) < 5 * 1.5 * 0.1 / draws.ess**0.5


def test_weights_mend_the_law_and_not_the_observation(local, tmp_path):
    """What is said of the law under which it was learned goes, what is said of the observation stays."""
    plain = Amortised(fitted(tmp_path, proposal={"kind": "by hand"}))
    assert "not the posterior under the prior" in plain.scope
    assert "not the posterior under the prior" in Ensemble([plain, plain]).scope
    assert Reweighted(plain, Seen()).scope == ""
    assert Reweighted(Ensemble([plain, plain]), Seen()).scope == ""
    assert local.scope == "not amortised: it holds for simulations of its proposal alone"
    assert Reweighted(local, Seen()).scope == Reweighted(Ensemble([local]), Seen()).scope == local.scope
    assert not Ensemble([local]).whole
    assert Ensemble([plain]).whole


def test_a_region_that_holds_little_of_what_was_learned_is_told(local, tmp_path):
    truncation = local.truncation
    moved = LocalPosterior(fitted(tmp_path, shift=0.13), truncation, frozenset())
    with pytest.warns(UserWarning, match=r"only \d\d.\d% of what was learned lies where its simulations were"):
        posterior = Sequential(moved, X, [truncation])
    assert 0.2 < posterior.mass < 0.9
    assert posterior.scope.startswith("not amortised: it was learned in 2 rounds for this observation")
    assert f"only {posterior.mass:.1%} of what was learned" in posterior.scope
    assert "only" not in Reweighted(posterior, Seen()).scope  # the weights make up for it
    with pytest.raises(OutsideRegion, match="none of 65,536 draws"):
        Sequential(LocalPosterior(fitted(tmp_path, shift=0.7, sd=0.01), truncation, frozenset()), X, [truncation])
    narrow = LocalPosterior(fitted(tmp_path, sd=0.03), truncation, frozenset())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Sequential(narrow, X, [truncation]).mass > 0.99
    far = {"x": torch.tensor([[0.9, 0.9]])}
    with pytest.raises(OutsideRegion, match="needs rounds of its own"):
        narrow.log_prob_batched(torch.zeros(1, 1, 2), far)


def test_a_proposal_that_was_not_reached_is_told(local):
    local.truncation.error = 0.2
    with pytest.warns(UserWarning, match="only 79"):
        posterior = Sequential(local, X, [local.truncation])
    assert "its simulations were off the law they should follow by up to 20%" in posterior.scope


def test_one_round_is_restricted_to_its_observation(tmp_path):
    posterior = Sequential(LocalPosterior(fitted(tmp_path), None, frozenset()), X, [])
    assert posterior.scope == "restricted to this observation"
    assert repr(posterior) == f"sequential posterior of ({', '.join(posterior.prior.names)}); {posterior.scope}"
    assert posterior.mass == 1.0
    assert posterior.whole
    with pytest.raises(ValueError, match="not amortised"):
        posterior.sample(3, THREE["x"][1])


def test_its_observation_need_not_be_given(local):
    with pytest.warns(UserWarning, match="only 79"):
        posterior = Sequential(local, X, [local.truncation])
    own = {name: value[0] for name, value in X.items()}
    left_out, given = (posterior.sample((7,), *x, generator=torch.Generator().manual_seed(2)) for x in ((), (own,)))
    assert torch.equal(left_out, given)
    assert torch.equal(posterior.log_prob(given), posterior.log_prob(given, own))
    assert Reweighted(posterior, Seen(), ess=10).sample(3).shape == (3, 2)
    with pytest.raises(ValueError, match="no observation was given: pass x="):
        local.sample(3)
