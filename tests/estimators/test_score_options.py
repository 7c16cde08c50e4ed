"""What a Score may be told beside its defaults: guided draws, scores of one density, layers that keep magnitudes."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td
from torch.nn import Linear

from sciinf import (
    Observable,
    Prior,
    Recipe,
    Score,
    build_posterior,
    calibrate,
    load_fit,
    query,
    simulate,
    train,
    train_ensemble,
)
from sciinf.core import Batch, Simulator
from sciinf.core.component import to_json
from sciinf.networks.diffusion.fokker_planck import penalty, score_of
from sciinf.networks.diffusion.guidance import Guided
from sciinf.networks.preserving import KEPT, Preserving, Unit, added, scaled, unit
from sciinf.training.estimators import _denoising
from sciinf.training.estimators._denoising import DenoisedDensity

DATA = ("given", "given.0", "enter", "clock")  # layers that take data, or a clock


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
def fitted(store, tmp_path_factory):
    score = Score(Mean.prior, Mean.observables, hidden=32, blocks=2, linear=False, dropped=0.15)
    recipe = Recipe(epochs=100, batch=100)
    return train(score, store, tmp_path_factory.mktemp("guiding"), recipe=recipe, progress=False)


@pytest.fixture(scope="module")
def guiding(fitted):
    return fitted.estimator


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


def test_guided_by_one_draws_are_those_of_the_posterior_to_the_bit(guiding):
    law, many = guiding.condition({"x": torch.tensor([[1.0], [-0.5]])}), 300
    plain = law.sample(many, generator=torch.Generator().manual_seed(0))
    assert torch.equal(law.guided(many, 1.0, generator=torch.Generator().manual_seed(0)), plain)
    outside = law.guided(many, 2.0, generator=torch.Generator().manual_seed(0), interval=(1e3, 1e4))
    assert torch.equal(outside, plain)  # no level of the way lies inside
    assert not torch.equal(law.guided(many, 2.0, generator=torch.Generator().manual_seed(0)), plain)


@pytest.mark.slow
def test_no_answer_has_guided_draws_and_a_calibration_would_refuse_them(fitted, tmp_path, monkeypatch):
    """The chance that the plain posterior is refused, or the planted one is not, is below 1e-3."""
    posterior, x = build_posterior(fitted), {"x": torch.tensor([1.0])}
    fresh = simulate(Mean(), tmp_path / "fresh", 400, seed=7, progress=False)
    calibration = calibrate(posterior, fresh, rows=250, draws=31, progress=False, scores=[])
    answer = query(posterior, x, calibration, draws=1_000)
    assert calibration.state != "not passed"
    assert float(answer.draws.theta.var()) == pytest.approx(0.36, rel=0.25)
    moved = DenoisedDensity._moved

    def sharper(law, start, noise, generator, denoise=None):  # the planted fault: a posterior whose draws are guided
        prior = law.estimator.network.prepare(law.estimator.told_nothing(law.rows))
        guide = Guided(law.denoise, lambda y, s: law.estimator.denoise(y, s, law.mean, prior), 2.0)
        return moved(law, start, noise, generator, guide)

    monkeypatch.setattr(DenoisedDensity, "_moved", sharper)
    wrong = calibrate(posterior, fresh, rows=250, draws=31, progress=False, scores=[])
    assert wrong.state == "not passed"


def test_what_is_left_out_leaves_no_trace(guiding):
    """Fits that were made before there were these options have the same description, digest and bits."""
    plain = Score(Mean.prior, Mean.observables)
    assert {"consistency", "dropped", "preserving"}.isdisjoint(to_json(plain)["arguments"])
    assert to_json(guiding)["arguments"]["dropped"] == 0.15


@pytest.mark.slow
@pytest.mark.parametrize("told", [{"consistency": 1.0}, {"preserving": True}, {"linear": False, "dropped": 0.2}])
def test_several_are_trained_side_by_side(store, tmp_path, told):
    both = [Score(Mean.prior, Mean.observables, hidden=16, blocks=1, seed=seed, **told) for seed in (0, 1)]
    recipe = Recipe(epochs=2, batch=150)
    fits = train_ensemble(both, store, tmp_path / "both", recipe=recipe, progress=False)
    alone = Score(Mean.prior, Mean.observables, hidden=16, blocks=1, seed=0, **told)
    fit = train(alone, store, tmp_path / "alone", recipe=recipe, progress=False)
    assert fits[0].record["best_validation_loss"] == pytest.approx(fit.record["best_validation_loss"], rel=0.1)


def test_options_go_together(store, tmp_path):
    score = Score(
        Mean.prior, Mean.observables, hidden=16, blocks=1, linear=False, dropped=0.2, consistency=1.0, preserving=True
    )
    fit = train(score, store, tmp_path, recipe=Recipe(epochs=2, batch=150), progress=False)
    assert fit.record["best_validation_loss"] < 2.0
    assert bool(
        load_fit(tmp_path)
        .estimator.condition({"x": torch.ones(1, 1)})
        .guided(5, 1.5, generator=torch.Generator())
        .isfinite()
        .all()
    )


def test_what_makes_no_sense_is_refused(guiding):
    law = guiding.condition({"x": torch.zeros(1, 1)})
    for many, weight, interval, words in (
        (0, 2.0, None, "n"),
        (5, float("nan"), None, "must be finite"),
        (5, 2.0, (2.0, 1.0), "interval"),
    ):
        with pytest.raises(ValueError, match=words):
            law.guided(many, weight, generator=torch.Generator(), interval=interval)
    for words, told in (
        ("linear=False with dropped", {"dropped": 0.1}),
        ("dropped must be a number of at least 0, below 1", {"linear": False, "dropped": 1.0}),
        ("dropped must be", {"linear": False, "dropped": True}),
        ("consistency must be a number of at least 0, finite", {"consistency": -1.0}),
        ("consistency must be", {"consistency": float("nan")}),
        ("consistency must be", {"consistency": "strong"}),
        ("preserving is True or False", {"preserving": "yes"}),
    ):
        with pytest.raises(ValueError, match=words):
            Score(Mean.prior, Mean.observables, **told)
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


@pytest.mark.slow
def test_training_against_the_equation_makes_scores_those_of_one_density(store, tmp_path):
    found = []
    for weight in (0.0, 2.0):
        score = Score(Mean.prior, Mean.observables, hidden=32, blocks=2, linear=False, consistency=weight)
        fit = train(score, store, tmp_path / str(weight), recipe=Recipe(epochs=15, batch=150), progress=False)
        found.append(gap(fit.estimator, store))
    assert found[1] < 0.7 * found[0]


def test_a_penalty_on_an_eighth_of_the_rows_weighs_as_on_all(monkeypatch):
    """On average over a batch it is the weight times the mean penalty, and none of the loss that is validated."""
    monkeypatch.setattr(_denoising, "penalty", lambda score, y, level, generator: torch.full_like(level, 3.0))
    theta = Mean.prior.sample(45, generator=torch.Generator().manual_seed(0))
    batch = Batch(theta, Mean()(theta, generator=torch.Generator().manual_seed(1)))
    for linear in (True, False):
        told = [Score(Mean.prior, Mean.observables, linear=linear, consistency=weight) for weight in (0.0, 0.5)]
        for mode, more in ((True, 0.5 * 3.0), (False, 0.0)):
            plain, paid = (each.train(mode).loss(batch, generator=torch.Generator().manual_seed(2)) for each in told)
            assert float((paid.mean() - plain.mean()).detach()) == pytest.approx(more, abs=1e-5)


def heights(estimator, store):
    """Rms of what each layer but those that take data is shown, over rows and levels of training."""
    found = {}

    def note(name):
        return lambda _, shown, made: found.update({name: float(shown[0].square().mean().sqrt())})

    layers = [(name, layer) for name, layer in estimator.network.named_modules() if isinstance(layer, Unit | Linear)]
    handles = [layer.register_forward_hook(note(name)) for name, layer in layers if name not in DATA]
    with torch.no_grad():
        estimator.eval().loss(store.load(slice(0, 1_000)), generator=torch.Generator().manual_seed(0))
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.slow
def test_layers_keep_the_rms_of_what_they_are_shown_through_training(store, tmp_path):
    """Within a tenth of 1 for each layer, before training and at its ends; plain layers are not held to that."""
    told = {"hidden": 64, "blocks": 3}
    for epochs in (0, 1, 4, 16):
        score = Score(Mean.prior, Mean.observables, preserving=True, **told)
        score.standardise(lambda: iter([store.load()]))
        if epochs:
            recipe = Recipe(epochs=epochs, batch=150)
            score = train(score, store, tmp_path / str(epochs), recipe=recipe, progress=False).estimator
        found = heights(score, store)
        assert len(found) == 14
        assert list(found.values()) == pytest.approx([1.0] * len(found), abs=0.1), found
    plain = Score(Mean.prior, Mean.observables, **told)
    plain.standardise(lambda: iter([store.load()]))
    assert max(abs(each - 1) for each in heights(plain, store).values()) > 0.3


def test_sums_and_scales_keep_rms_one():
    one, other = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0)).unbind()
    for found in (added(one, other, 0.3), scaled(one, other, torch.tensor(0.8)), unit(5 * one)):
        assert float(found.square().mean().sqrt()) == pytest.approx(1.0, abs=0.02)


def test_the_norm_of_weights_is_forced_in_training_alone():
    layer = Unit(8, 4)
    with torch.no_grad():
        layer.weight.mul_(3.0)
    before = layer.weight.detach().clone()
    found = layer.eval()(torch.eye(8))  # what is used has norm 1, whatever is stored
    assert torch.allclose(found.square().sum(0), torch.ones(4), atol=1e-3)
    assert torch.equal(layer.weight, before)
    layer.requires_grad_(False).train()(torch.ones(2, 8))  # a teacher, frozen within its student
    assert torch.equal(layer.weight, before)
    layer.requires_grad_(True)(torch.ones(2, 8))
    assert torch.allclose(layer.weight.square().mean(1), torch.full((4,), KEPT**2), rtol=1e-3)
    with torch.no_grad():
        layer.weight.mul_(7.0)
    one = layer(torch.ones(2, 8))
    assert torch.allclose(layer.weight.square().mean(1), torch.full((4,), KEPT**2), rtol=1e-3)
    assert torch.allclose(one, layer(torch.ones(2, 8)))


def test_weights_do_not_grow_in_training(store, tmp_path):
    """Their rms is what it was but for the last step; where norms are not forced it grows by several per cent."""
    score = Score(Mean.prior, Mean.observables, preserving=True, hidden=32, blocks=1)
    recipe = Recipe(epochs=12, batch=100, ema=0.0, learning_rate=0.02, weight_decay=0.0)  # large steps, nothing else
    fit = train(score, store, tmp_path, recipe=recipe, progress=False)
    layers = [layer for layer in fit.estimator.network.modules() if isinstance(layer, Unit)]
    sizes = torch.cat([layer.weight.detach().square().mean(1).sqrt() for layer in layers])
    assert float(sizes.mean()) == pytest.approx(KEPT, rel=0.01)


def test_a_new_network_says_nothing():
    network = Preserving(2, 1, 3, 16, 2)
    found = network(torch.randn(5, 2), torch.zeros(()), network.prepare(torch.randn(5, 3)))
    assert float(found.detach().abs().max()) == 0.0
