"""The bounded step: it cannot strengthen a wave, and learns like others."""

from __future__ import annotations

import pytest
import torch
from emulators.fields import Decay
from torch import distributions as td

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Observable, Prior
from sciinf.emulators import Stepwise
from sciinf.emulators.stable_rollout import Stable, Weakening, limited
from sciinf.networks.spectral import Fourier, around


def check_no_wave_grows(layer):
    with torch.no_grad():
        layer.size.mul_(50)  # whatever is learned
        fields = torch.randn(4, 3, 16, 16, dtype=torch.float64)
        before, after = torch.fft.rfft2(fields).abs(), torch.fft.rfft2(layer(fields)).abs()
        inner = (slice(None), slice(None), slice(None), slice(1, 8))  # where no two waves stand for each other
        assert bool((after[inner] <= before[inner] * (1 + 1e-9)).all())
        assert float(layer(fields).norm()) <= float(fields.norm())
    return after


def test_no_wave_grows_and_none_beyond_the_circle_is_left():
    torch.manual_seed(0)
    layer = Weakening(3, (8, 8)).double()
    after = check_no_wave_grows(layer)
    y, x = torch.fft.fftfreq(16, 1 / 16)[:, None], torch.arange(9)
    beyond = (y.square() + x.square()) >= 64
    assert float(after[..., beyond].max()) < 1e-9
    corner = torch.zeros(1, 3, 16, 16, dtype=torch.complex128)
    corner[..., 6, 6] = 1.0  # a wave of the square that is not of the circle
    with torch.no_grad():
        assert float(layer(torch.fft.ifft2(corner).real * 256).abs().max()) < 1e-9


def test_a_multiplier_without_its_bound_is_seen(monkeypatch):
    monkeypatch.setattr(Weakening, "multiplier", lambda self: torch.polar(self.size.abs() * self.circle, self.turn))
    with pytest.raises(AssertionError):
        check_no_wave_grows(Weakening(3, (8, 8)).double())


@pytest.mark.parametrize("apart", [(0.05, 1.0), (1.0, 7.0)])
def test_no_weights_make_a_rollout_leave_its_bound(apart):
    fields = {"initial": Observable((2, 16)), "still": Observable((1, 16)), "u": Observable((3, 2, 16))}
    prior = Prior(a=td.Uniform(0.0, 1.0))

    def largest(architecture):
        step = Stepwise(prior, fields, architecture, stays=["still"]).eval()
        step.target_mean += 3.0
        step.target_sd *= 2.0
        step.step_sd.copy_(torch.tensor(apart)[:, None])  # of one channel a fraction of the sd, of one more than it
        with torch.no_grad():
            for weight in step.network.parameters():
                weight.mul_(20)  # as bad as can be
            given = {"initial": 3 + 2 * torch.randn(5, 2, 16), "still": torch.randn(5, 1, 16)}
            frames = (step.rollout(torch.rand(5, 1), given, 200) - 3.0) / 2.0
        return float(frames.square().mean(3).sqrt().max())

    torch.manual_seed(0)
    assert largest(Stable(8, 8, layers=2, limit=1.5)) <= 1.5 + 2.0 + 1e-4
    assert not largest(Fourier(8, 8, layers=2)) < 1e3  # a plain one is the fault that the bound must be seen to mend


def test_inside_its_limits_nothing_is_held():
    fields = torch.randn(3, 2, 16)
    assert torch.equal(limited(fields, 10.0), fields)
    assert limited(fields, 0.1).square().mean(2).sqrt() == pytest.approx(torch.full((3, 2), 0.1), rel=1e-4)


def test_coordinates_close_the_ring():
    torch.manual_seed(0)
    fields, theta = torch.zeros(1, 1, 16), torch.zeros(1, 1)
    told = Stable(8, 4, layers=1, coordinates=True).build((1, 1), (16,), 1).eval()
    with torch.no_grad():
        found = told(fields, theta)[0, 0]
    gaps = (found - found.roll(1)).abs()
    assert float(gaps.max()) > 1e-6
    assert 0.05 * float(gaps.max()) < float(gaps[0] + gaps[1]) < 3 * float(gaps[1:].max())
    turn = 2 * torch.pi * torch.arange(16) / 16
    assert torch.allclose(around((16,), fields), torch.stack([turn.cos(), turn.sin()]))


def test_all_waves_of_the_grid_are_kept_by_default():
    net = Stable(8, layers=1).build((1, 1), (16, 15), 1)
    assert net.hold.modes == (8, 8)
    assert net(torch.randn(2, 1, 16, 15), torch.zeros(2, 1)).shape == (2, 1, 16, 15)


@pytest.mark.slow
def test_it_learns_a_step_and_is_read_back(tmp_path):
    equation = Decay()
    store = simulate(equation, tmp_path / "store", 500, seed=0)
    step = Stepwise(equation.prior, equation.observables, Stable(12, 8, layers=2))
    fit = train(step, store, tmp_path / "fit", recipe=Recipe(epochs=15, batch=25))
    fresh = simulate(equation, tmp_path / "fresh", 100, seed=1).load()
    with torch.no_grad():
        found = fit.surrogate.predict(fresh.theta, fresh.x)
        again = load_fit(tmp_path / "fit").surrogate.predict(fresh.theta, fresh.x)
    true = fresh.x["u"]
    assert float(((found - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).mean()) < 0.15
    assert torch.equal(found, again)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="15 grid points have no 9 waves to keep: build Stable with modes=8"):
        Weakening(1, (9,))(torch.randn(1, 1, 15))
    with pytest.raises(ValueError, match="15 grid points have no 9 waves"):  # before it is trained, not after
        Stable(8, 9).build((1, 1), (32, 15), 1)
    with pytest.raises(ValueError, match="fields without space"):
        Stable(8, 4).build((1, 1), (), 1)
    with pytest.raises(ValueError, match="2 directions, the fields have 1"):
        Stable(8, (4, 4)).build((1, 1), (16,), 1)
    with pytest.raises(ValueError, match="1 channels are fewer than 2"):
        Stable(8, 4).build((1, 2), (16,), 1)
    with pytest.raises(ValueError, match="limit is a positive number"):
        Stable(8, 4, limit=0.0)
