"""Ratio estimation: its loss against the formula, its ratio against the exact one, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td
from torch.nn import functional as F

from sciinf.campaigns.simulation import simulate
from sciinf.core import Batch, DensityUnavailable, Fit, Observable, Prior, Simulator, load_fit
from sciinf.networks.summaries import MLP
from sciinf.training import Recipe, train, train_ensemble
from sciinf.training.estimators.flow import Flow
from sciinf.training.estimators.ratio import Ratio

PRIOR = Prior(a=td.Uniform(-1.0, 1.0))
OBSERVABLES = {"x": Observable((2,))}
NOISE = 0.4


class Shifted(Simulator):
    """Two measurements of a, each with an error of its own."""

    name, prior, observables, block = "shifted", PRIOR, OBSERVABLES, 4096

    def __call__(self, theta, *, generator):
        return {"x": theta + NOISE * torch.randn(len(theta), 2, generator=generator)}

    def log_likelihood(self, theta, x):
        return td.Normal(theta, NOISE).log_prob(x["x"]).sum(-1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, seed=0):
    theta = PRIOR.sample(n, generator=generator(seed))
    return Batch(theta, Shifted()(theta, generator=generator(seed + 1)))


def exact_log_ratio(theta, x):
    """log p(x | theta) - log p(x), (n, batch) of theta (n, batch, 1); p(x) by the midpoint rule."""
    grid = (torch.arange(4_000) + 0.5) / 2_000 - 1.0
    evidence = Shifted().log_likelihood(grid[:, None, None], {"x": x[None]}).logsumexp(0) - math.log(len(grid))
    return Shifted().log_likelihood(theta, {"x": x[None]}) - evidence


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Shifted(), tmp_path_factory.mktemp("store"), 4_000, seed=1, progress=False)


@pytest.fixture(scope="module")
def fit(store, tmp_path_factory) -> Fit:
    return train(
        Ratio(PRIOR, OBSERVABLES), store, tmp_path_factory.mktemp("fit") / "fit", recipe=Recipe(epochs=12, batch=150)
    )


def moved(estimator, seed=5):
    """Weights away from where they begin, so that nothing is the identity or zero."""
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(seed)))
    return estimator.eval()


@pytest.mark.parametrize(
    ("contrasts", "gamma", "balance"), [(1, 1.0, 0.0), (3, 1.0, 0.0), (3, 2.5, 0.0), (2, 1.0, 10.0)]
)
def test_loss_is_the_cross_entropy_of_the_classes(contrasts, gamma, balance):
    estimator = moved(Ratio(PRIOR, OBSERVABLES, contrasts=contrasts, gamma=gamma, balance=balance))
    batch = rows(8)
    found = estimator.loss(batch, generator=generator())
    potential = estimator.condition(batch.x)
    log_r = torch.stack([potential.log_likelihood(batch.theta.roll(-k, 0)) for k in range(contrasts + 1)]).double()
    log_p = torch.tensor([1.0, *[gamma / contrasts] * contrasts], dtype=torch.float64).log() - math.log1p(gamma)
    none = torch.cat([log_p[:1, None].expand(1, 8), log_p[1:, None] + log_r[1:]]).log_softmax(0)[0]
    one = torch.cat([log_p[:1, None].expand(1, 8), log_p[1:, None] + log_r[:-1]]).log_softmax(0)[1]
    expected = -(none + gamma * one) / (1 + gamma)
    total = log_r[0].sigmoid().mean() + log_r[1:].sigmoid().mean()
    assert torch.allclose(found.double(), expected + balance * (total - 1) ** 2, atol=1e-5)
    # planted fault: real and mixed pairs exchanged give another loss
    none, one = (-F.softplus(log_r[0] + log_p[1] - log_p[0]), none)
    assert not torch.allclose(found.double(), -(none + gamma * one) / (1 + gamma), atol=1e-2)


def test_one_contrast_is_the_binary_classifier_of_aalr():
    estimator = moved(Ratio(PRIOR, OBSERVABLES, contrasts=1, gamma=1.0))
    batch = rows(8)
    potential = estimator.condition(batch.x)
    real, mixed = potential.log_likelihood(batch.theta), potential.log_likelihood(batch.theta.roll(-1, 0))
    expected = 0.5 * (F.softplus(-real) + F.softplus(mixed))
    assert torch.allclose(estimator.loss(batch, generator=generator()), expected, atol=1e-5)


def test_the_gaussian_part_is_a_normalised_ratio():
    estimator = moved(Ratio(PRIOR, OBSERVABLES))
    torch.nn.init.zeros_(estimator.left.last.weight)
    torch.nn.init.zeros_(estimator.left.last.bias)
    features = estimator.features(rows(5).x)
    z = torch.linspace(-12, 12, 4_001)
    with torch.no_grad():
        log_r = estimator.log_ratio(z[:, None, None], estimator.embed(features))
    assert float(log_r.std(1).max()) > 0.05  # it moves with x
    mass = (log_r + td.Normal(0.0, 1.0).log_prob(z)[:, None]).exp().sum(0) * (z[1] - z[0])
    assert torch.allclose(mass, torch.ones_like(mass), atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_batches_smaller_than_the_contrasts_have_a_loss(n):
    loss = Ratio(PRIOR, OBSERVABLES, contrasts=10).loss(rows(n), generator=generator())
    assert loss.shape == (n,)
    assert bool(loss.isfinite().all())


def test_ratio_is_the_exact_one_and_calibrated(fit):
    # Stated error: mean |log r - exact| below 0.1 nats at draws of p(theta, x), and the mean of r over the prior within
    # 5 % of 1 for the median observation. The same run gives the same numbers: no false alarm on one kind of processor.
    batch = rows(200, seed=11)
    potential = fit.estimator.condition(batch.x)
    with torch.no_grad():
        found = potential.log_likelihood(batch.theta[None])
        wide = PRIOR.sample(1_000, generator=generator(12))[:, None].expand(-1, 200, -1)
        mean = potential.log_likelihood(wide).double().exp().mean(0)
    error = (found - exact_log_ratio(batch.theta[None], batch.x["x"])).abs().mean()
    assert float(error) < 0.1
    assert float(mean.median()) == pytest.approx(1.0, abs=0.05)
    # planted faults: a ratio off by a factor, and that of other observations, are seen
    assert float((2 * mean).median()) != pytest.approx(1.0, abs=0.05)
    other = (found - exact_log_ratio(batch.theta[None], batch.x["x"].roll(1, 0))).abs().mean()
    assert float(other) > 0.1


@pytest.mark.slow
def test_without_the_gaussian_part_it_learns_too(store, tmp_path):
    estimator = Ratio(PRIOR, OBSERVABLES, summary=MLP(8, (16,)), gaussian=False, balance=10.0, contrasts=2)
    fit = train(estimator, store, tmp_path / "fit", recipe=Recipe(epochs=10, batch=200))
    batch = rows(200, seed=11)
    with torch.no_grad():
        found = fit.estimator.condition(batch.x).log_likelihood(batch.theta[None])
    exact = exact_log_ratio(batch.theta[None], batch.x["x"])
    assert float(torch.corrcoef(torch.cat([found, exact]))[0, 1]) > 0.9


def test_comes_back_from_disk(fit):
    again = load_fit(fit.folder)
    assert isinstance(again.estimator, Ratio)
    assert again.digest == fit.digest
    batch = rows(5)
    one, two = (f.estimator.condition(batch.x).log_likelihood(batch.theta) for f in (fit, again))
    assert torch.equal(one, two)


def test_members_of_an_ensemble_train_together(store, tmp_path, recwarn):
    members = [Ratio(PRIOR, OBSERVABLES, contrasts=3, seed=k) for k in range(2)]
    fits = train_ensemble(members, store, tmp_path, recipe=Recipe(epochs=2, batch=500))
    assert not [w for w in recwarn if "one after the other" in str(w.message)]
    alone = train(members[1], store, tmp_path / "alone", recipe=Recipe(epochs=2, batch=500), seed=1)
    state, found = alone.estimator.state_dict(), fits[1].estimator.state_dict()
    assert all(torch.allclose(state[k], found[k], atol=1e-3) for k in state)


def test_gradients_agree_with_differences():
    potential = moved(Ratio(PRIOR, OBSERVABLES)).condition(rows(4).x)
    theta = torch.linspace(-0.8, 0.8, 4).double()[:, None].requires_grad_()
    (gradient,) = torch.autograd.grad(potential.log_likelihood(theta).sum(), theta)
    step = 0.01
    with torch.no_grad():
        difference = (potential.log_likelihood(theta + step) - potential.log_likelihood(theta - step)) / (2 * step)
    assert torch.allclose(gradient[:, 0].float(), difference, rtol=0.02, atol=0.02)


def test_whoever_needs_a_density_is_told_what_to_do():
    x = rows(2).x
    with pytest.raises(DensityUnavailable, match="Ratio learns a likelihood.*build_posterior"):
        Ratio(PRIOR, OBSERVABLES).density(x)
    assert Flow(PRIOR, OBSERVABLES).density(x).sample(3, generator=generator()).shape == (3, 2, 1)
    assert (Ratio.normalised, Flow.normalised) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"contrasts": 0}, "contrasts must be an integer of at least 1"),
        ({"hidden": 0}, "hidden must be an integer"),
        ({"blocks": 0}, "blocks must be an integer"),
        ({"gamma": 0.0}, "gamma must be a positive number, got 0.0"),
        ({"balance": -1.0}, "balance must be a non-negative number, got -1.0"),
        ({"seed": -1}, "seed must be an integer"),
        ({"summary": {"y": MLP()}}, "observables are .*x"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, why):
    with pytest.raises(ValueError, match=why):
        Ratio(PRIOR, OBSERVABLES, **arguments)
