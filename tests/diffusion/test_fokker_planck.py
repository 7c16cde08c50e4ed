"""The Fokker-Planck residual: none for exact scores, some for wrong ones, less after training against it."""

from __future__ import annotations

import functools

import pytest
import torch
from diffusion.mixtures import LINE, PLANE, Mixture, double
from diffusion.training import Net, trained

from sciinf.networks.diffusion.fokker_planck import penalty, regularised_loss, residual, score_of
from sciinf.networks.diffusion.objective import Diffusion, EvenLogs
from sciinf.networks.diffusion.schedule import NoiseLevel

DIFFUSION = Diffusion(NoiseLevel(0.05, 20.0), levels=EvenLogs())
FIVE = Mixture(
    double([0.4, 0.6]), double([[-1.0, 0, 0.5, 1, 0], [1.0, 0.5, -0.5, 0, 0]]), double([[0.5] * 5, [0.8] * 5])
)


def noisy(mixture, rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    level = torch.logspace(-1.3, 1.0, rows, dtype=torch.float64)
    data = mixture.sample(rows, generator)
    return data + level[:, None] * torch.randn(data.shape, generator=generator, dtype=torch.float64), level


@pytest.mark.parametrize("mixture", [LINE, PLANE, FIVE], ids=["line", "plane", "five"])
def test_exact_scores_have_no_residual(mixture):
    y, level = noisy(mixture)
    assert residual(score_of(mixture.denoise), y, level).abs().max() < 1e-8


@pytest.mark.parametrize(
    "wrong",
    [
        lambda y, s: 1.1 * PLANE.denoise(y, s),
        lambda y, s: PLANE.denoise(y, 1.1 * s),
        lambda y, s: PLANE.denoise(y, s) + 0.1 * torch.stack([y[:, 1], -y[:, 0]], 1),
    ],
    ids=["scaled", "another level", "swirling"],
)
def test_wrong_scores_have_one(wrong):
    """Planted faults, far above what rounding leaves."""
    y, level = noisy(PLANE)
    assert penalty(score_of(wrong), y, level).max() > 1e-4


def test_exact_scores_of_another_density_have_none():
    """As its documentation warns: it does not look at the data."""
    y, level = noisy(PLANE)
    other = Mixture(double([0.5, 0.3, 0.2]), 2 * PLANE.mean, PLANE.sd)
    assert residual(score_of(other.denoise), y, level).abs().max() < 1e-8


def test_estimates_are_the_exact_values_on_average():
    """Residual and penalty, each row's mean of 4,000 estimates within 5 standard errors; false alarms below 1e-4."""
    score = score_of(lambda y, s: 1.1 * FIVE.denoise(y, s))
    y, level = noisy(FIVE, rows=20)
    generator = torch.Generator().manual_seed(1)
    many, levels = y.repeat(4_000, 1), level.repeat(4_000)
    for of in (residual, penalty):
        exact = of(score, y, level).reshape(20, -1)
        found = of(score, many, levels, generator).reshape(4_000, 20, -1)
        error = found.std(0) / 4_000**0.5
        assert ((found.mean(0) - exact).abs() < 5 * error + 1e-9).all()


def test_more_than_32_dimensions_need_an_estimate():
    y = torch.zeros(3, 40)
    with pytest.raises(ValueError, match="pass a generator"):
        residual(score_of(lambda v, s: v / (1 + s**2)[:, None]), y, torch.ones(3))
    found = residual(score_of(lambda v, s: v / (1 + s**2)[:, None]), y, torch.ones(3), torch.Generator())
    torch.testing.assert_close(found, torch.zeros_like(y))


def test_levels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="a level for each row"):
        residual(score_of(PLANE.denoise), torch.zeros(3, 2), torch.tensor(1.0))


def test_its_gradient_by_weights_is_that_of_finite_differences():
    net, (y, level) = Net(2, 2).double(), noisy(PLANE, rows=10)
    weight = net.layers[2].weight

    def value():
        return penalty(score_of(lambda v, s: DIFFUSION.denoise(net, v, s)), y, level).mean()

    value().backward()
    slope, step = float(weight.grad[3, 5]), 1e-5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[3, 5] += sign * step
            ends.append(float(value()))
            weight[3, 5] -= sign * step
    assert abs((ends[0] - ends[1]) / (2 * step) - slope) < 1e-4 * abs(slope) + 1e-9


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    net, (y, level) = Net(2, 2).double(), noisy(PLANE, rows=5)
    with torch.no_grad():
        assert not residual(score_of(lambda v, s: DIFFUSION.denoise(net, v, s)), y, level).requires_grad


@pytest.mark.slow
def test_training_against_it_lowers_it_without_hurting_the_fit():
    """By more than 30 % on fresh points, while the squared error of D grows by less than a tenth."""
    generator = torch.Generator().manual_seed(2)
    data = PLANE.sample(4_000, generator).float()
    noise, level, _ = DIFFUSION.noise(data, generator)
    y = data + level[:, None] * noise
    exact = PLANE.denoise(y.double(), level.double()).float()
    penalties, errors = [], []
    for weight in (0.0, 2.0):
        loss = functools.partial(regularised_loss, DIFFUSION, weight=weight)
        net = trained(Net(2, 2), loss, PLANE, steps=150, rows=128, rate=1e-2)
        penalties.append(float(penalty(score_of(lambda v, s: DIFFUSION.denoise(net, v, s)), y, level).detach().mean()))
        off = (DIFFUSION.denoise(net, y, level).detach() - exact).square().mean(-1)
        errors.append(float((off * (1 + level**2) / level**2).mean()))
    assert penalties[1] < 0.7 * penalties[0]
    assert errors[1] < 1.1 * errors[0]


def test_in_many_dimensions_the_loss_takes_the_estimate():
    net, data = Net(5, 5), FIVE.sample(50, torch.Generator().manual_seed(0)).float()
    losses = [
        regularised_loss(DIFFUSION, net, data, weight=0.1, generator=torch.Generator().manual_seed(seed)).detach()
        for seed in (0, 0, 1)
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert losses[0].shape == (50,)


def test_a_wrong_weight_is_refused():
    with pytest.raises(ValueError, match="weight"):
        regularised_loss(DIFFUSION, Net(2, 2), torch.zeros(2, 2), weight=-1.0, generator=torch.Generator())
