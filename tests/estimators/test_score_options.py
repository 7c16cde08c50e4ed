"""What a Score may be told beside its defaults: guided draws, scores of one density, layers that keep magnitudes."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf import Observable, Prior, Recipe, Score, simulate, train
from sciinf.core import Simulator
from sciinf.diffusion.fokker_planck import penalty, score_of
from sciinf.nets.preserving import Preserving, Unit


class Mean(Simulator):
    """x = theta + noise of sd 0.75: the posterior of N(0, 1) has variance 0.36 and mean 0.64 x."""

    name = "mean"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"x": Observable((1,))}

    def __call__(self, theta, *, generator):
        return {"x": theta + 0.75 * torch.randn(theta.shape, generator=generator)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Mean(), tmp_path_factory.mktemp("mean") / "s", 3_000, progress=False)


@pytest.fixture(scope="module")
def guiding(store, tmp_path_factory):
    score = Score(Mean.prior, Mean.observables, hidden=32, blocks=2, linear=False, dropped=0.15)
    recipe = Recipe(epochs=100, batch=100)
    return train(score, store, tmp_path_factory.mktemp("guiding"), recipe=recipe, progress=False).estimator


def test_guided_draws_end_where_the_guided_flow_of_a_gaussian_does(guiding):
    """At variance v^w. Without dropped rows in training the network knows no prior, and guides by noise."""
    law = guiding.condition({"x": torch.tensor([[1.0]])})
    for weight in (1.0, 2.0):
        draws = law.guided(4_000, weight, generator=torch.Generator().manual_seed(0))[:, 0, 0]
        assert float(draws.var()) == pytest.approx(0.36**weight, rel=0.35)
    plain = law.guided(4_000, 0.0, generator=torch.Generator().manual_seed(0))[:, 0, 0]  # the prior
    assert float(plain.mean()) == pytest.approx(0.0, abs=0.15)
    assert float(plain.var()) == pytest.approx(1.0, rel=0.3)


def test_the_posterior_is_not_guided(guiding):
    draws = guiding.condition({"x": torch.tensor([[1.0]])}).sample(4_000, generator=torch.Generator().manual_seed(0))
    assert float(draws.mean()) == pytest.approx(0.64, abs=0.1)
    assert float(draws.var()) == pytest.approx(0.36, rel=0.25)


def test_what_makes_no_sense_is_refused(guiding):
    with pytest.raises(ValueError, match="linear=False with dropped"):
        Score(Mean.prior, Mean.observables, dropped=0.1)
    with pytest.raises(ValueError, match="dropped is a share"):
        Score(Mean.prior, Mean.observables, linear=False, dropped=1.0)
    with pytest.raises(ValueError, match="consistency is a weight"):
        Score(Mean.prior, Mean.observables, consistency=-1.0)
    plain = Score(Mean.prior, Mean.observables).condition({"x": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=r"train Score\(\.\.\., dropped=0\.1"):
        plain.guided(10, 2.0, generator=torch.Generator())


def gap(estimator, store):
    """Mean of |s^3 r|^2 / D over rows and levels of training; exact divergence, for D is 1."""
    batch = store.load(slice(0, 400))
    generator = torch.Generator().manual_seed(0)
    z, values = estimator.to_z(batch.theta), estimator.standardise_x(batch.x)
    prepared = estimator.network.prepare(estimator.told(values, batch.x))
    mean = estimator.guess(values)
    noise, level, _ = estimator.diffusion.noise(z, generator)
    score = score_of(lambda y, s: estimator.denoise(y, s, mean, prepared))
    return float(penalty(score, z + level[:, None] * noise, level).detach().mean())


def test_training_against_the_equation_makes_scores_those_of_one_density(store, tmp_path):
    found = []
    for weight in (0.0, 2.0):
        score = Score(Mean.prior, Mean.observables, hidden=32, blocks=2, linear=False, consistency=weight)
        fit = train(score, store, tmp_path / str(weight), recipe=Recipe(epochs=15, batch=150), progress=False)
        found.append(gap(fit.estimator, store))
    assert found[1] < 0.7 * found[0]


def heights(estimator, store):
    """Rms of what each layer is shown in the network's blocks and in the end, over rows and levels of training."""
    found = []
    for name, layer in estimator.network.named_modules():
        if name.startswith(("first.", "second.", "leave")):
            layer.register_forward_hook(lambda _, shown, made: found.append(float(shown[0].square().mean().sqrt())))
    with torch.no_grad():
        estimator.eval().loss(store.load(slice(0, 1_000)), generator=torch.Generator().manual_seed(0))
    return found


def test_layers_keep_the_rms_of_what_they_are_shown(store, tmp_path):
    """Within a seventh of 1 for each layer before training and after it; plain layers are not held to that."""
    told, recipe = {"hidden": 64, "blocks": 3}, Recipe(epochs=15, batch=150)
    new, plain = (Score(Mean.prior, Mean.observables, preserving=keep, **told) for keep in (True, False))
    for score in (new, plain):
        score.standardise(lambda: iter([store.load()]))
    fit = train(Score(Mean.prior, Mean.observables, preserving=True, **told), store, tmp_path, recipe=recipe)
    for score in (new, fit.estimator):
        assert heights(score, store) == pytest.approx([1.0] * 7, abs=0.15)
    assert max(abs(each - 1) for each in heights(plain, store)) > 0.3


def test_the_norm_of_weights_is_forced_in_training_alone():
    layer = Unit(8, 4)
    before = layer.weight.detach().clone()
    layer.eval()(torch.ones(2, 8))
    assert torch.equal(layer.weight, before)
    layer.train()(torch.ones(2, 8))
    assert torch.allclose(layer.weight.square().mean(1), torch.ones(4), atol=1e-3)
    with torch.no_grad():
        layer.weight.mul_(7.0)
    one = layer(torch.ones(2, 8))
    assert torch.allclose(layer.weight.square().mean(1), torch.ones(4), atol=1e-3)
    assert torch.allclose(one, layer(torch.ones(2, 8)))


def test_a_new_network_says_nothing():
    network = Preserving(2, 1, 3, 16, 2)
    found = network(torch.randn(5, 2), torch.zeros(()), network.prepare(torch.randn(5, 3)))
    assert float(found.abs().max()) == 0.0
