"""The contract of surrogates, and what they learn of an equation whose solution is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from emulators.fields import Decay

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch, Observable, Prior
from sciinf.diagnostics.fields import conformal
from sciinf.emulators import Emulator, Operator, RelativeL2, Sobolev, Stepwise
from sciinf.emulators._fields import OfFields
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.random_field import RandomField
from sciinf.training import train_ensemble

NET = Fourier(12, 6, layers=2, hidden=32)
KINDS = (Operator, Stepwise)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(kind, equation, **told):
    return kind(equation.prior, equation.observables, NET, **told)


def rows_of(equation, n=24, seed=3):
    theta = equation.prior.sample(n, generator=generator(seed))
    return Batch(theta, equation(theta, generator=generator(seed + 1)))


def relative(found, true):
    return float(((found.detach() - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).mean())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Decay(), tmp_path_factory.mktemp("rows") / "store", 500, seed=0)


@pytest.fixture(scope="module")
def fits(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    recipe = Recipe(epochs=20, batch=25)
    return {kind: train(built(kind, Decay()), store, folder / kind.__name__, recipe=recipe) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_the_equation(kind, fits):
    rows = rows_of(Decay(), 100)
    surrogate = fits[kind].surrogate
    error = relative(surrogate.predict(rows.theta, rows.x), rows.x["u"])
    assert error < 0.08
    assert fits[kind].record["relative_error"] == pytest.approx(error, rel=0.5)
    other = rows.theta.flip(0)  # the fault: parameters that are not the solution's
    assert relative(surrogate.predict(other, rows.x), rows.x["u"]) > 2 * error


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_seed_batch_and_slopes(kind):
    equation = Decay()
    rows, surrogate = rows_of(equation), built(kind, equation)
    loss = surrogate.loss(rows, generator=generator())
    assert loss.shape == (24,)
    assert torch.equal(loss, built(kind, equation).loss(rows, generator=generator()))
    assert not torch.equal(loss, built(kind, equation, seed=1).loss(rows, generator=generator()))
    loss.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in surrogate.parameters())
    whole = surrogate.predict(rows.theta, rows.x)
    assert whole.shape == (24, *equation.observables["u"].shape)
    alone = surrogate.predict(rows.theta[3:4], {k: v[3:4] for k, v in rows.x.items()})
    assert torch.allclose(whole[3:4], alone, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_read_back(kind, fits):
    rows, again = rows_of(Decay()), load_fit(fits[kind].folder)
    found = [fit.surrogate.predict(rows.theta, rows.x) for fit in (fits[kind], again)]
    assert torch.equal(*found)
    errors = [fit.surrogate.error(rows.theta, rows.x, generator=generator()) for fit in (fits[kind], again)]
    assert torch.equal(*errors)
    with pytest.raises(TypeError, match=r"surrogate of 'decay'.*Emulator"):
        _ = again.estimator


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_a_prediction_and_its_error(kind, fits):
    rows, surrogate = rows_of(Decay()), fits[kind].surrogate
    with torch.no_grad():
        drawn = surrogate.draw(rows.theta, rows.x, generator=generator(5))
        error = surrogate.error(rows.theta, rows.x, generator=generator(5))
        assert torch.allclose(drawn, surrogate.predict(rows.theta, rows.x) + error, atol=1e-5)


class Sampled(OfFields):
    """A surrogate whose draws are all that it has."""

    def loss(self, batch, *, generator):
        raise NotImplementedError

    def draw(self, theta, given, *, generator):
        noise = torch.randn(len(theta), *self.observables[self.target].shape, generator=generator)
        return theta[:, :1, None, None] + noise

    def predict(self, theta, given):
        return theta[:, :1, None, None].expand(-1, *self.observables[self.target].shape)

    def spread(self, theta):
        return torch.ones(len(theta))


def test_the_error_of_a_surrogate_that_draws_is_what_its_draws_are_off_by():
    equation = Decay()
    rows, surrogate = rows_of(equation), Sampled(equation.prior, equation.observables, "u", None, 0)
    found = surrogate.error(rows.theta, rows.x, generator=generator(5))
    noise = torch.randn(found.shape, generator=generator(5))
    assert torch.allclose(found, noise, atol=1e-5)


def test_an_ensemble_is_trained_at_once(store, tmp_path):
    members = [built(Operator, Decay(), seed=k) for k in range(2)]
    recipe = Recipe(epochs=2, batch=50)
    one, two = train_ensemble(members, store, tmp_path / "both", recipe=recipe)
    alone = train(members[1], store, tmp_path / "alone", recipe=recipe, seed=1)
    rows = rows_of(Decay())
    found = [fit.surrogate.predict(rows.theta, rows.x) for fit in (one, two, alone)]
    assert torch.allclose(found[1], found[2], atol=1e-3)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_errors_have_the_size_and_shape_of_held_out_ones(store, tmp_path):
    # of a network that has hardly been trained, whose errors are as smooth as fields; 50 held-out rows tell their size
    # to some 20 %
    equation, recipe = Decay(), Recipe(epochs=2, batch=50)
    surrogate = train(built(Operator, Decay()), store, tmp_path / "fit", recipe=recipe).surrogate
    rows = rows_of(equation, 2_000, seed=11)
    with torch.no_grad():
        off = rows.x["u"] - surrogate.predict(rows.theta, rows.x)
    drawn = surrogate.error(rows.theta, rows.x, generator=generator(5))
    true, modelled = (value.flatten(1).double() for value in (off, drawn))
    assert float(modelled.square().mean() / true.square().mean()) == pytest.approx(1.0, abs=0.5)
    both = [value.mT @ value / len(value) for value in (true, modelled)]
    overlap = (both[0] * both[1]).sum() / (both[0].norm() * both[1].norm())
    assert float(overlap) > 0.8
    noise = torch.eye(len(both[0])).double() * both[0].diagonal().mean()  # the fault: errors without correlations
    assert float((both[0] * noise).sum() / (both[0].norm() * noise.norm())) < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_noise_comes_from_the_generator_alone(kind, fits):
    rows, before = rows_of(Decay()), torch.get_rng_state()
    one, two, other = (fits[kind].surrogate.error(rows.theta, rows.x, generator=generator(s)) for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_steps_go_on_beyond_the_frames(fits):
    equation, surrogate = Decay(times=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5)), fits[Stepwise].surrogate
    rows = rows_of(equation, 50)
    found = surrogate.rollout(rows.theta, rows.x, 5)
    assert found.shape == (50, 6, 1, 16)
    assert torch.equal(found[:, 0], rows.x["initial"])
    assert torch.equal(found[:, :3], surrogate.predict(rows.theta, rows.x))
    assert relative(found, rows.x["u"]) < 0.12


@pytest.mark.slow
def test_a_start_before_the_first_frame_is_a_step_too(tmp_path):
    later = Decay(times=(0.5, 1.0))
    rows = simulate(later, tmp_path / "store", 300, seed=0)
    fit = train(built(Stepwise, later, begins=False), rows, tmp_path / "fit", recipe=Recipe(epochs=20, batch=25))
    fresh = rows_of(later, 100)
    assert relative(fit.surrogate.predict(fresh.theta, fresh.x), fresh.x["u"]) < 0.15


def test_losses_are_their_formulas():
    true = torch.randn(3, 4, 2, 16, dtype=torch.float64, generator=generator())
    off = torch.randn(3, 4, 2, 16, dtype=torch.float64, generator=generator(1))
    plain = (off.square().sum((-2, -1)) / true.square().sum((-2, -1))).sqrt().mean(1)
    assert torch.allclose(RelativeL2()(true + off, true, directions=1), plain)
    assert torch.allclose(Sobolev(0.0)(true + off, true, directions=1), plain)
    x = torch.arange(16, dtype=torch.float64) * 2 * math.pi / 16
    wave, sharp = x.sin()[None, None], (5 * x).sin()[None, None]
    found = Sobolev(1.0)(wave + 0.1 * sharp, wave, directions=1)
    assert float(found) == pytest.approx(0.1 * math.sqrt(26 / 2))
    flat = torch.stack([wave[0], wave[0]], 1).expand(1, 1, 2, 16)
    assert float(Sobolev(2.0)(2 * flat, flat, directions=2)) == pytest.approx(1.0)


def test_a_frame_at_rest_does_not_swamp_the_others():
    true = torch.randn(2, 3, 1, 16, dtype=torch.float64, generator=generator())
    true[:, 0] = 0.0
    found = true + 0.01
    loss = RelativeL2()(found, true, directions=1)
    assert bool((loss < 10).all())
    assert torch.allclose(RelativeL2()(1e-9 * found, 1e-9 * true, directions=1), loss)


def test_an_emulator_is_a_simulator(fits, tmp_path):
    equation = Decay()
    emulator, bare = Emulator(fits[Operator], equation), Emulator(fits[Operator], equation, error=False)
    theta = equation.prior.sample(300, generator=generator())
    x, sure = (source(theta, generator=generator(1)) for source in (emulator, bare))
    assert torch.equal(x["initial"], sure["initial"])
    assert emulator.random
    assert x["u"].dtype == torch.float32
    assert torch.allclose(sure["u"], fits[Operator].surrogate.predict(theta, sure), atol=1e-5)
    size = (x["u"] - sure["u"]).square().mean().sqrt()
    true = equation(theta, generator=generator(1))["u"]
    assert float(size) == pytest.approx(float((true - sure["u"]).square().mean().sqrt()), rel=0.5)
    store = simulate(emulator, tmp_path / "emulated", 100, seed=2)
    assert store.simulator["name"] == emulator.name
    assert emulator.name.startswith("decay_by_operator_")
    assert bare.name != emulator.name


def test_what_does_not_fit_is_refused(fits):
    equation = Decay()
    prior, fields = equation.prior, equation.observables
    for make, says in (
        (lambda: Operator(prior, fields, target="v"), "no observable 'v'"),
        (lambda: Operator(prior, fields, given=["w"]), "no observable 'w'"),
        (lambda: Operator(prior, fields, given=[]), "starts from fields"),
        (lambda: Operator(prior, {"u": Observable((3,))}), r"\(time, channel, \*space\)"),
        (lambda: Operator(prior, {**fields, "y": Observable((5,))}), "name what is in `given`"),
        (lambda: Stepwise(prior, fields, noise=-1.0), "at least 0"),
        (lambda: Stepwise(prior, {**fields, "initial": Observable((2, 16))}), "has 2 channels"),
        (lambda: Stepwise(prior, {**fields, "u": Observable((1, 1, 16))}), "no step from one"),
        (lambda: Emulator(fits[Operator], Decay(points=32)), "not what"),
        (lambda: Emulator(fits[Stepwise], Decay(times=(0.5, 1.0, 1.5))), "at 0.5, is after the start"),
        (lambda: Emulator(fits[Stepwise], Decay(times=(0.0, 0.5, 1.5))), "0.5 to 1 apart"),
        (lambda: Emulator(fits[Stepwise], Decay(times=(0.0, 1.0, 2.0))), r"times was \[0.0, 0.5, 1.0\], is \[0.0, 1"),
        (lambda: Emulator(fits[Operator], Decay(initial=RandomField(1.0, tau=9.0))), "initial was .* is .*9.0"),
        (lambda: Sobolev(math.inf), "finite"),
        (lambda: fits[Operator].surrogate.predict(torch.ones(1, 2), {"w": torch.ones(1)}), r"got \['w'\]"),
        (lambda: fits[Stepwise].surrogate.predict(torch.ones(1, 2), torch.ones(1, 1, 16)), "by name, .*: got Tensor"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    other = Decay()
    other.prior = Prior(nu=torch.distributions.Uniform(0.0, 1.0))
    with pytest.raises(ValueError, match="another simulator"):
        Emulator(fits[Operator], other)
    changed = replace(fits[Operator], simulator={**fits[Operator].simulator, "code": "another"})
    with pytest.warns(UserWarning, match="file of 'decay' has changed"):
        Emulator(changed, equation)
    for wrong in ((fits[Operator].surrogate, equation), (equation, fits[Operator])):
        with pytest.raises(TypeError, match="takes a surrogate's fit and the differential equation"):
            Emulator(*wrong)


def test_a_band_is_not_made_of_what_was_trained_on(fits, store, tmp_path):
    with pytest.raises(ValueError, match="take another seed"):
        conformal(fits[Operator], store)
    fresh = simulate(Decay(), tmp_path / "fresh", 50, seed=1)
    assert torch.equal(conformal(fits[Operator], fresh).width, conformal(fits[Operator].surrogate, fresh).width)
