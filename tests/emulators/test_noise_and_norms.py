"""What training noise and norms are made of, seen in numbers that are known."""

from __future__ import annotations

import pytest
import torch
from emulators.fields import Decay

from sciinf.core import Batch
from sciinf.core.component import to_json
from sciinf.emulators import Stepwise
from sciinf.emulators.spectral_refiner import FourierPath, _Squares, residual_norm
from sciinf.networks.spectral import Fourier


def test_frames_are_blurred_in_training_by_as_many_sds_of_a_step():
    """A network that changes nothing gives the blurred frame back; of a steady field all that is left is the blur."""
    equation, size, noise = Decay(), 0.3, 2.0
    theta = equation.prior.sample(200, generator=torch.Generator().manual_seed(0))
    field = 1.0 + torch.rand(200, 1, 16, generator=torch.Generator().manual_seed(1))
    steady = Batch(theta, {"initial": field, "u": field[:, None].repeat(1, 3, 1, 1)})
    expected = noise * size * (16 / field.square().sum((1, 2))).sqrt()

    def loss(told, *, training):
        surrogate = Stepwise(equation.prior, equation.observables, Fourier(4, 3, layers=1), noise=told, pairs=20)
        surrogate.network.leave.weight.data.zero_()
        surrogate.network.leave.bias.data.zero_()
        surrogate.step_sd.fill_(size)
        return surrogate.train(training).loss(steady, generator=torch.Generator().manual_seed(2)).detach()

    # 200 rows of 20 blurs of 16 numbers: their mean is known to 0.3 %
    assert float((loss(noise, training=True) / expected).mean()) == pytest.approx(1.0, abs=0.03)
    assert float(loss(noise, training=False).abs().max()) < 1e-6
    assert float(loss(0.0, training=True).abs().max()) < 1e-6


def test_random_blurs_have_sds_from_none_to_the_largest():
    """Of a sd uniform in (0, a) the mean of |blur| is half that of a, and a tenth of the blurs are below a / 10."""
    equation = Decay()
    theta = equation.prior.sample(400, generator=torch.Generator().manual_seed(0))
    field = torch.ones(400, 1, 16)
    steady = Batch(theta, {"initial": field, "u": field[:, None].repeat(1, 3, 1, 1)})
    found = {}
    for random in (False, True):
        surrogate = Stepwise(
            equation.prior, equation.observables, Fourier(4, 3, layers=1), noise=1.0, pairs=1, random=random
        )
        surrogate.network.leave.weight.data.zero_()
        surrogate.network.leave.bias.data.zero_()
        surrogate.step_sd.fill_(1.0)
        found[random] = surrogate.train().loss(steady, generator=torch.Generator().manual_seed(2)).detach()
    # 400 blurs of 16 numbers: shares of a tenth are known to 1.5 %, means to 3 %; 4 sds each
    assert abs(float((found[True] < 0.1).float().mean()) - 0.1) < 0.06
    assert float((found[False] < 0.3).float().mean()) == 0
    assert float(found[True].mean() / found[False].mean()) == pytest.approx(0.5, abs=0.07)


def test_a_rollout_is_blurred_alike_in_every_row_and_every_time():
    equation = Decay()
    theta = equation.prior.sample(3, generator=torch.Generator().manual_seed(0))
    given = {"initial": torch.randn(3, 1, 16, generator=torch.Generator().manual_seed(1))}

    def rolled(at_use, rows=slice(None)):
        surrogate = Stepwise(
            equation.prior, equation.observables, Fourier(4, 3, layers=1), noise=0.2, at_use=at_use
        ).eval()
        with torch.no_grad():
            return surrogate.rollout(theta[rows], {"initial": given["initial"][rows]}, 5)

    plain, blurred = rolled(0.0), rolled(0.1)
    assert torch.equal(blurred, rolled(0.1))
    torch.testing.assert_close(blurred[1:2], rolled(0.1, slice(1, 2)), atol=1e-6, rtol=1e-5)
    assert 0.02 < float((blurred - plain)[:, 1:].std()) < 1.0


def test_what_is_left_out_leaves_no_trace():
    """Fits that were made before there were these options keep description, digest and bits."""
    told = {"noise": 0.2}, {"noise": 0.2, "random": True, "at_use": 0.1}
    made = [to_json(Stepwise(Decay().prior, Decay().observables, Fourier(4, 3, layers=1), **each)) for each in told]
    assert {"random", "at_use"}.isdisjoint(made[0]["arguments"])
    assert (made[1]["arguments"]["random"], made[1]["arguments"]["at_use"]) == (True, 0.1)


def test_blurs_that_make_no_sense_are_refused():
    for told, words in (
        ({"random": True}, "give Stepwise"),
        ({"at_use": 0.1}, "at most that"),
        ({"noise": 0.2, "at_use": 0.3}, "at most that"),
        ({"noise": 0.2, "at_use": -0.1}, "at_use must be a number"),
        ({"noise": "0.2"}, "noise must be a number"),
        ({"noise": 0.2, "random": 0.6}, "random is True or False, got 0.6: set the largest sd by noise="),
    ):
        with pytest.raises(ValueError, match=words):
            Stepwise(Decay().prior, Decay().observables, Fourier(4, 3, layers=1), **told)


def test_refinement_makes_the_norm_small_by_which_residuals_are_measured():
    """The sum of squares that is made least is the mean over times of |residual|^2 in H^-1, and of no other order."""
    equation, theta = Decay(points=16), torch.tensor([[0.01, 1.0], [0.03, 1.0]]).double()
    source = torch.Generator().manual_seed(0)
    start, waves = (
        torch.randn(2, 1, 16, generator=source).double(),
        torch.randn(2, 2, 2, 1, 16, generator=source).double(),
    )
    path, times = FourierPath(start, waves, 2.0), torch.linspace(0.0, 1.0, 9).double()
    squares = _Squares(path, equation, theta, 2, times)
    found = squares.residual(torch.zeros(squares.shape, dtype=torch.float64)).square().flatten(1).sum(1)
    each = torch.stack([residual_norm(path, equation, theta, times[k : k + 1]) ** 2 for k in range(9)])
    assert torch.allclose(found, torch.trapezoid(each, times, dim=0), rtol=1e-10)
