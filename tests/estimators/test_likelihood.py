"""Likelihood estimation: the density of the data in their own units, and what has none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.simulation import simulate
from sciinf.core import Batch, Observable, Prior, Simulator, load_fit
from sciinf.networks.flows import MAF, SplineCoupling
from sciinf.training import Recipe, train
from sciinf.training.estimators.likelihood import MOST, Likelihood

PRIOR = Prior(a=td.Uniform(-1.0, 1.0), b=td.LogNormal(0.0, 0.3))
OBSERVABLES = {"x": Observable((2,), "m"), "y": Observable((), "s", scale="log")}
COUNTED = {"k": Observable((2,), "", ("bin",), "int64", "log")}


class Both(Simulator):
    """Two numbers around 50 a, of sd 10 b, and a positive one around b; their sizes are far from 1."""

    name, prior, observables, block = "both", PRIOR, OBSERVABLES, 4096

    def __call__(self, theta, *, generator):
        noise = torch.randn(len(theta), 3, generator=generator)
        x = 50 * theta[:, :1] + 10 * theta[:, 1:] * noise[:, :2]
        return {"x": x, "y": (theta[:, 1].log() + 0.2 * noise[:, 2]).exp()}

    def log_likelihood(self, theta, x):
        normal = td.Normal(50 * theta[:, :1], 10 * theta[:, 1:]).log_prob(x["x"]).sum(-1)
        return normal + td.LogNormal(theta[:, 1].log(), 0.2).log_prob(x["y"])


class Counts(Simulator):
    """Two Poisson numbers of rates 30 b and 3 exp(a)."""

    name, prior, observables, block = "counts", PRIOR, COUNTED, 4096

    def rates(self, theta):
        return torch.stack([30 * theta[:, 1], 3 * theta[:, 0].exp()], dim=-1)

    def __call__(self, theta, *, generator):
        return {"k": torch.poisson(self.rates(theta), generator=generator).long()}

    def log_likelihood(self, theta, x):
        return td.Poisson(self.rates(theta)).log_prob(x["k"]).sum(-1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(simulator, folder, n=4_000, epochs=12):
    store = simulate(simulator, folder / "store", n, seed=1, progress=False)
    estimator = Likelihood(simulator.prior, simulator.observables)
    return train(estimator, store, folder / "fit", recipe=Recipe(epochs=epochs, batch=150))


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    return trained(Both(), tmp_path_factory.mktemp("both"))


def errors(fit, simulator, n=1_000):
    """log likelihood found less the exact one, at draws of p(theta, x)."""
    theta = PRIOR.sample(n, generator=generator(7))
    x = simulator(theta, generator=generator(8))
    with torch.no_grad():
        return fit.estimator.condition(x).log_likelihood(theta) - simulator.log_likelihood(theta, x)


def test_log_likelihood_is_the_exact_one_in_the_datas_units(fit):
    # Stated error: mean within 0.1 nats and rms below 0.5; the same run gives the same numbers, so there is no false
    # alarm on one kind of processor. Planted fault: without the slope of the standardisation it is off by nats.
    found = errors(fit, Both())
    assert abs(float(found.mean())) < 0.1
    assert float(found.square().mean().sqrt()) < 0.5
    x = Both()(PRIOR.sample(4, generator=generator()), generator=generator())
    slope = fit.estimator.condition(x).log_slope
    assert float(slope.abs().min()) > 1.0


def test_slope_is_that_of_the_standardisation(fit):
    x = Both()(PRIOR.sample(4, generator=generator()), generator=generator())
    x["x"][0] = 2_000.0  # squashed
    potential, step = fit.estimator.condition(x), 1e-3
    total = torch.zeros(4).double()
    for name, value in x.items():
        up, down = ({**x, name: value.double() * (1 + sign * step)} for sign in (1, -1))
        change = (fit.estimator.features(up) - fit.estimator.features(down)).double()
        moved = change[:, :2] if name == "x" else change[:, 2:]
        total += (moved / (2 * step * value.double().reshape(4, -1))).abs().log().sum(1)
    assert torch.allclose(potential.log_slope, total, atol=0.02)


@pytest.mark.slow
def test_counts_have_probabilities(tmp_path):
    # Stated error: mean within 0.15 nats, rms below 0.6, at rates from 1 to 60, zeros among the counts.
    fit = trained(Counts(), tmp_path)
    found = errors(fit, Counts())
    assert abs(float(found.mean())) < 0.15
    assert float(found.square().mean().sqrt()) < 0.6
    theta = torch.tensor([[0.0, 1.0]])
    grid = torch.cartesian_prod(torch.arange(80), torch.arange(20))
    with torch.no_grad():
        total = fit.estimator.condition({"k": grid}).log_likelihood(theta.expand(len(grid), -1)).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=0.05)


def test_comes_back_from_disk(fit):
    again = load_fit(fit.folder).estimator
    theta = PRIOR.sample(5, generator=generator())
    x = Both()(theta, generator=generator())
    one, two = (e.condition(x).log_likelihood(theta) for e in (fit.estimator, again))
    assert isinstance(again, Likelihood)
    assert torch.equal(one, two)
    assert one.dtype == torch.float64


def test_features_are_all_of_the_data(fit):
    x = Both()(PRIOR.sample(6, generator=generator()), generator=generator())
    features = fit.estimator.features(x)
    assert features.shape == (6, 3)
    assert torch.equal(features[:, 2].argsort(), x["y"].argsort())


def test_the_loss_of_counts_draws_from_its_generator_alone():
    estimator = Likelihood(PRIOR, COUNTED)
    theta = PRIOR.sample(20, generator=generator())
    batch, before = Batch(theta, Counts()(theta, generator=generator())), torch.get_rng_state()
    one, two, other = (estimator.loss(batch, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("observables", "why"),
    [
        ({"x": Observable((5,)), "x_mask": Observable((5,), dtype="bool")}, "'x_mask' marks missing values.*use Ratio"),
        ({"on": Observable((5,), dtype="bool")}, "'on' is bool.*use Ratio or Flow"),
        ({"x": Observable((50, 50))}, f"2,500 numbers.*at most {MOST:,}.*use Ratio or Flow"),
    ],
)
def test_data_without_a_density_are_refused(observables, why):
    with pytest.raises(ValueError, match=why):
        Likelihood(PRIOR, observables)


def test_a_flow_that_is_no_object_is_refused():
    with pytest.raises(TypeError, match="flow must be an object such as .*, got the class MAF; call it"):
        Likelihood(PRIOR, OBSERVABLES, flow=MAF)
    with pytest.raises(ValueError, match="seed must be an integer"):
        Likelihood(PRIOR, OBSERVABLES, seed=-1)


@pytest.mark.parametrize("numbers", [1, 65, 300])
def test_default_flow_suits_the_size_of_the_data(numbers):
    estimator = Likelihood(PRIOR, {"x": Observable((numbers,))})
    theta, x = PRIOR.sample(3, generator=generator()), {"x": torch.randn(3, numbers, generator=generator())}
    found = estimator.condition(x).log_likelihood(theta)
    start = -0.5 * (x["x"] ** 2).sum(1).double() - 0.5 * numbers * math.log(2 * math.pi)
    assert torch.allclose(found, start, rtol=0.1, atol=0.1)
    assert Likelihood(PRIOR, OBSERVABLES, flow=SplineCoupling(2, 8)).flow.dim == 3
