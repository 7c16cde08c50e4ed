"""Guided denoisers of Gaussians, in closed form: what they are at level 0, and what they draw."""

from __future__ import annotations

import math

import pytest
import torch
from diffusion.mixtures import LINE, PLANE, Mixture, double

from sciinf.networks.diffusion.guidance import Guided, standard_normal
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential

MEAN, VARIANCE = 0.8, 0.25  # of the posterior; the prior is N(0, 1)
PATH = NoiseLevel(1e-3, 80.0)
LEVELS = torch.logspace(-3, 2, 40, dtype=torch.float64)


def posterior(y, level):
    return MEAN + VARIANCE / (VARIANCE + level[..., None] ** 2) * (y - MEAN)


def points(rows=40, dim=2):
    return 2 * torch.randn(rows, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(guided, rows=20_000):
    noise = torch.randn(rows, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Exponential(200).solve(guided, PATH.most * noise, PATH, generator=torch.Generator())


def test_weights_of_one_and_zero_are_the_two_denoisers():
    y = points()
    for weight, expected in ((1.0, posterior), (0.0, standard_normal)):
        found = Guided(posterior, standard_normal, weight)(y, LEVELS)
        torch.testing.assert_close(found, expected(y, LEVELS), rtol=0, atol=1e-14)


def test_the_standard_normal_is_that_of_a_mixture_of_one():
    one = Mixture(double([1.0]), double([[0.0, 0.0]]), double([[1.0, 1.0]]))
    torch.testing.assert_close(standard_normal(points(), LEVELS), one.denoise(points(), LEVELS))


@pytest.mark.parametrize("weight", [0.5, 2.0, 5.0])
def test_at_level_zero_it_is_the_score_of_the_tilted_gaussian(weight):
    y, level = points(dim=1), torch.tensor(1e-4, dtype=torch.float64)
    found = (Guided(posterior, standard_normal, weight)(y, level) - y) / level**2
    precision = 1 + weight * (1 / VARIANCE - 1)
    tilted = weight * MEAN / VARIANCE - precision * y
    torch.testing.assert_close(found, tilted, rtol=1e-5, atol=1e-5)


def test_at_level_zero_it_is_the_score_of_the_tilted_mixture():
    y, level, weight = points().requires_grad_(), torch.tensor(1e-4, dtype=torch.float64), 3.0
    log = PLANE.log_prob(y) * weight + (1 - weight) * Mixture(*_wide()).log_prob(y)
    (tilted,) = torch.autograd.grad(log.sum(), y)
    found = (Guided(PLANE.denoise, Mixture(*_wide()).denoise, weight)(y, level) - y) / level**2
    torch.testing.assert_close(found.detach(), tilted, rtol=1e-4, atol=1e-4)


def _wide():
    return double([0.5, 0.5]), double([[-1.0, 0.0], [1.0, 0.0]]), double([[1.0, 1.5], [1.2, 1.0]])


@pytest.mark.parametrize("weight", [0.5, 2.0, 4.0])
def test_the_guided_flow_ends_at_the_variance_that_it_has_and_not_at_the_tilted_one(weight):
    """The planted fault is the claim that guided draws are of the tilted density: v / (v + w (1 - v)).

    The variance of 20,000 draws is within 5 standard errors, 5 %, of v^w; false alarms below 1e-6.
    """
    ratio = float(drawn(Guided(posterior, standard_normal, weight)).var())
    assert abs(ratio / VARIANCE**weight - 1) < 0.05
    tilted = VARIANCE / (VARIANCE + weight * (1 - VARIANCE))
    assert abs(ratio / tilted - 1) > 0.1


def test_unguided_draws_are_of_the_posterior():
    draws = drawn(Guided(posterior, standard_normal, 1.0))
    assert abs(float(draws.mean()) - MEAN) < 5 * math.sqrt(VARIANCE / len(draws))
    assert abs(float(draws.var()) / VARIANCE - 1) < 0.05


def test_an_interval_guides_inside_and_asks_one_network_outside():
    """And the variance of draws is what the flow's equation gives.

    It is v ((1 + h^2) / (1 + l^2) (v + l^2) / (v + h^2))^(w - 1), l and h the interval; 8 % are 8 standard errors.
    """
    low, high, weight, calls = 0.2, 2.0, 3.0, []

    def counted(y, level):
        calls.append(float(level))
        return standard_normal(y, level)

    guided = Guided(posterior, counted, weight, (low, high))
    draws = drawn(guided)
    assert min(calls) >= low
    assert max(calls) <= high
    assert 10 < len(calls) < 100
    factor = (1 + high**2) / (1 + low**2) * (VARIANCE + low**2) / (VARIANCE + high**2)
    assert abs(float(draws.var()) / (VARIANCE * factor ** (weight - 1)) - 1) < 0.08
    y = points()
    rows = Guided(posterior, standard_normal, weight, (low, high))(y, LEVELS)
    inside = (low <= LEVELS) & (high >= LEVELS)
    everywhere = Guided(posterior, standard_normal, weight)(y, LEVELS)
    assert torch.equal(rows[inside], everywhere[inside])
    assert torch.equal(rows[~inside], posterior(y, LEVELS)[~inside])


@pytest.mark.parametrize(
    ("weight", "interval", "says"),
    [(math.nan, None, "weight"), (math.inf, None, "weight"), (2.0, (1.0, 0.5), "interval"), (2.0, (-1.0, 1.0), "low")],
)
def test_wrong_settings_are_refused(weight, interval, says):
    with pytest.raises(ValueError, match=says):
        Guided(LINE.denoise, standard_normal, weight, interval)
