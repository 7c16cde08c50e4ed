"""Posteriors of sets from an estimator of single observations, on a linear Gaussian whose answers are known."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from torch import distributions as td

from sciinf import Compositional, Flow, Observable, Prior, Recipe, Score, query, simulate, train
from sciinf.campaigns import Store
from sciinf.core import DensityUnavailable, Level, Simulator
from sciinf.networks.diffusion.joined import Bridging, Jacobian
from sciinf.networks.diffusion.solver import Exponential
from sciinf.posteriors.compositional import reliable
from sciinf.wrappers import sets

SD = 0.8  # of the noise


class Ball(Simulator):
    """x = theta + noise, theta uniform in one place and normal in another."""

    name = "ball"
    prior = Prior(a=td.Normal(0.5, 1.0), b=td.Normal(0.0, 2.0))
    observables = {"x": Observable((2,))}

    def __call__(self, theta, *, generator):
        return {"x": theta + SD * torch.randn(theta.shape, generator=generator)}


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("compositional")
    store = simulate(Ball(), folder / "simulations", 4_000, progress=False)
    estimator = Score(Ball.prior, Ball.observables, hidden=32, blocks=2)
    return train(estimator, store, folder / "fit", recipe=Recipe(epochs=30, learning_rate=3e-3))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return simulate(Ball(), tmp_path_factory.mktemp("fresh"), 2_000, seed=1, progress=False)


def exact(x):
    """Means and sds of the posterior of a set, (n, 2)."""
    mean, variance = torch.tensor([0.5, 0.0]), torch.tensor([1.0, 4.0])
    precision = 1 / variance + len(x) / SD**2
    return (mean / variance + x.sum(0) / SD**2) / precision, precision.rsqrt()


@pytest.mark.parametrize("n", [1, 8, 30])
def test_sets_have_their_posterior(fit, n):
    """Within 0.8 sd for means and a quarter for sds, after seconds of training; the same run gives the same numbers."""
    theta = torch.tensor([[1.2, -1.7]])
    x = Ball()(theta.expand(n, 2), generator=torch.Generator().manual_seed(n))["x"]
    draws = Compositional(fit, n).sample(1_000, x=x, generator=torch.Generator().manual_seed(0))
    mean, sd = exact(x)
    assert ((draws.mean(0) - mean).abs() < 0.8 * sd).all()
    assert ((draws.std(0) / sd - 1).abs() < 0.25).all()
    # planted fault: the posterior of one of them, or of as many of another theta
    one, _ = exact(x[:1]) if n > 1 else exact(x + 1.0)
    assert ((draws.mean(0) - one).abs() > 0.6 * sd).any()


def test_batches_of_sets_are_one_after_the_other(fit):
    posterior = Compositional(fit, 5)
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    draws = posterior.sample_batched(400, {"x": x}, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (400, 3, 2)
    for index in range(3):
        mean, sd = exact(x[index])
        assert ((draws[:, index].mean(0) - mean).abs() < 0.8 * sd).all()
    assert posterior.features({"x": x}).shape == (3, 2)


def test_errors_without_the_linear_guess_are_told(tmp_path, fresh):
    """A score that begins at no guess is an sd off after the same training, which held-out simulations say."""
    store = simulate(Ball(), tmp_path / "simulations", 4_000, progress=False)
    estimator = Score(Ball.prior, Ball.observables, hidden=32, blocks=2, linear=False)
    fit = train(estimator, store, tmp_path / "fit", recipe=Recipe(epochs=5, learning_rate=3e-3))
    with pytest.warns(UserWarning, match=r"nothing tells how errors .* add up in it; pass held_out="):
        assert "linear=False" in Compositional(fit, 20).scope
    assert Compositional(fit, 1).scope == ""
    with pytest.warns(UserWarning, match=r"a third of an sd or more beyond \d observations, and it is asked of 20"):
        Compositional(fit, 20, held_out=fresh)


def test_some_of_many_observations(fit):
    x = Ball()(torch.tensor([[1.2, -1.7]]).expand(60, 2), generator=torch.Generator().manual_seed(1))["x"]
    draws = Compositional(fit, 60, some=10).sample(500, x=x, generator=torch.Generator().manual_seed(0))
    mean, sd = exact(x)
    assert ((draws.mean(0) - mean).abs() < 1.5 * sd).all()


def test_says_how_many_observations_it_can_be_trusted_with(fit, fresh):
    held_out = fresh.load()
    trusted = reliable(fit.estimator, held_out)
    assert trusted > 10
    # planted fault: scores that are off by the same for all observations
    worse = copy.deepcopy(fit.estimator)
    with torch.no_grad():
        worse.guess.offset += 0.2
    assert reliable(worse, held_out) < 10
    # at 5 observations a smaller one shifts it by some .45 sd: less than half, and wrong all the same
    with torch.no_grad():
        worse.guess.offset -= 0.1
    assert reliable(worse, held_out) < 5
    assert trusted < len(held_out)  # more, no such number of rows can tell
    with pytest.warns(UserWarning, match="a third of an sd or more beyond"):
        posterior = Compositional(fit, 100_000, held_out=fresh)
    assert "asked of 100000" in posterior.scope
    assert Compositional(fit, 2, held_out=fresh).scope == ""


def test_the_verdict_says_how_far_added_errors_move_it(fit, fresh):
    x = Ball()(torch.tensor([[1.2, -1.7]]).expand(5, 2), generator=torch.Generator().manual_seed(5))["x"]
    bad = dataclasses.replace(fit, learned=copy.deepcopy(fit.estimator))
    with torch.no_grad():
        bad.estimator.guess.offset += 0.2  # planted fault: the same error in each score

    def found(one, items, held_out):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = query(Compositional(one, items, held_out=held_out), x[:items], draws=200)
        return answer.verdict.word, {each.name: each for each in answer.checks}.get("added scores")

    word, told = found(bad, 5, fresh)
    assert word == "do not rely"
    assert told.level == Level.ALARM
    draws = Compositional(bad, 5).sample(4_000, x=x, generator=torch.Generator().manual_seed(0))
    mean, sd = exact(x)
    off = float(((draws.mean(0) - mean) / sd).square().mean().sqrt())
    assert told.figures["shift"] == pytest.approx(off, rel=0.35)
    assert found(fit, 5, None)[1].level == Level.UNKNOWN
    assert found(fit, 5, None)[0] != "rely"
    assert found(fit, 2, fresh)[1].level == Level.GOOD
    assert found(fit, 1, None)[1] is None


def test_simulations_that_it_was_trained_on_are_not_held_out(fit):
    store = Store(fit.folder.parent / "simulations")
    with pytest.raises(ValueError, match="simulations is of the campaign .* trained on"):
        Compositional(fit, 5, held_out=store)


def test_draws_are_those_of_the_generator(fit):
    posterior, x = Compositional(fit, 4), torch.ones(4, 2)
    first, second = (posterior.sample(20, x=x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.slow
def test_a_single_draw_and_fewer_than_parameters(fit):
    posterior, x = Compositional(fit, 4), torch.ones(4, 2)
    for n in (1, 2):
        assert posterior.sample(n, x=x).isfinite().all()
    many = torch.cat([posterior.sample(1, x=x, generator=torch.Generator().manual_seed(k)) for k in range(16)])
    mean, sd = exact(x)
    assert ((many.mean(0) - mean).abs() < 1.3 * sd).all()
    assert ((many.std(0) / sd).log().abs() < 0.6).all()


def test_what_cannot_be_composed_is_refused(fit, tmp_path):
    store = simulate(Ball(), tmp_path / "s", 200, progress=False)
    flow = train(Flow(Ball.prior, Ball.observables), store, tmp_path / "flow", recipe=Recipe(epochs=1))
    with pytest.raises(TypeError, match="train a Score"):
        Compositional(flow, 3)
    with pytest.raises(ValueError, match="items must be an integer"):
        Compositional(fit, 0)
    with pytest.raises(ValueError, match="correction must be an integer of at least 20"):
        Compositional(fit, 3, correction=5)
    with pytest.raises(ValueError, match="take 1,000 or more"):
        reliable(fit.estimator, store.load().rows(slice(0, 50)))
    with pytest.raises(DensityUnavailable, match="no normalised density"):
        Compositional(fit, 3).log_prob(torch.zeros(1, 2), x=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="shape"):
        Compositional(fit, 3).sample(5, x=torch.zeros(4, 2))


def test_priors_that_are_not_gaussian_in_z_are_refused(tmp_path):
    mixture = td.MixtureSameFamily(
        td.Categorical(torch.ones(2)), td.MultivariateNormal(torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2))
    )

    class Other(Simulator):
        name = "other"
        prior = Prior.joint(["a", "b"], mixture)
        observables = {"x": Observable((2,))}

        def __call__(self, theta, *, generator):
            return {"x": theta + torch.randn(theta.shape, generator=generator)}

    store = simulate(Other(), tmp_path / "s", 200, progress=False)
    fit = train(Score(Other.prior, Other.observables), store, tmp_path / "fit", recipe=Recipe(epochs=1))
    with pytest.raises(ValueError, match="no Gaussian form"):
        Compositional(fit, 3)


@pytest.mark.slow
def test_sets_of_several_are_joined_from_smaller_ones(tmp_path):
    """PF-NPSE: 7 observations by a network of up to 2, four factors of which the last has 1."""
    simulator, short = sets(Ball(), 2), Recipe(epochs=24)
    store = simulate(simulator, tmp_path / "s", 4_000, progress=False)
    fit = train(
        Score(simulator.prior, simulator.observables, hidden=32, blocks=2), store, tmp_path / "fit", recipe=short
    )
    x = Ball()(torch.tensor([[1.2, -1.7]]).expand(7, 2), generator=torch.Generator().manual_seed(2))["x"]
    posterior = Compositional(fit, 7)
    assert posterior.observables["x"].shape == (7, 2)
    assert set(posterior.observables) == {"x"}
    draws = posterior.sample(800, x=x, generator=torch.Generator().manual_seed(0))
    mean, sd = exact(x)
    assert ((draws.mean(0) - mean).abs() < 0.7 * sd).all()
    assert ((draws.std(0) / sd - 1).abs() < 0.6).all()  # 4,000 rows teach a network for sets no more
    assert posterior.features({"x": x[None]}).ndim == 2
    # the planted fault: the last factor's empty place read as an observation at 0
    wrong, _ = exact(torch.cat([x, torch.zeros(1, 2)]))
    assert ((wrong - mean).abs() > 0.7 * sd).any()


@pytest.mark.parametrize("method", [Jacobian(Exponential(20)), Bridging(60, 5)], ids=["jacobian", "bridging"])
def test_other_ways_to_join(fit, method):
    x = Ball()(torch.tensor([[1.2, -1.7]]).expand(8, 2), generator=torch.Generator().manual_seed(8))["x"]
    posterior = Compositional(fit, 8, method=method, correction=0)
    draws = posterior.sample(300, x=x, generator=torch.Generator().manual_seed(0))
    mean, sd = exact(x)
    assert ((draws.mean(0) - mean).abs() < 0.7 * sd).all()
    assert ((draws.std(0) / sd - 1).abs() < 0.35).all()
    assert posterior.digest != Compositional(fit, 8).digest
