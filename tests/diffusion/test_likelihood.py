"""The density by the probability flow against mixtures whose density is known."""

from __future__ import annotations

import pytest
import torch
from diffusion.mixtures import LINE, PLANE

from sciinf.networks.diffusion.likelihood import log_density
from sciinf.networks.diffusion.schedule import NoiseLevel, Straight, VariancePreserving

PATHS = [NoiseLevel(1e-2, 200.0), VariancePreserving(least=1e-2), Straight(1e-2, 500.0)]


@pytest.mark.parametrize("mixture", [LINE, PLANE], ids=["line", "plane"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_density_is_the_mixtures(mixture, path):
    """Up to the data's mean over the highest level, for the noise that they end in is taken to be centred."""
    x = mixture.sample(200, torch.Generator().manual_seed(0))
    found = log_density(mixture.denoise, x, path)
    torch.testing.assert_close(found, mixture.log_prob(x, path.least), rtol=0, atol=1e-2)


def test_it_integrates_to_one():
    axis = torch.linspace(-4, 4, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = log_density(PLANE.denoise, grid, PATHS[0]).exp()
    assert abs(float(density.sum()) * 0.01 - 1) < 2e-3


def test_estimated_trace_is_unbiased():
    """Mean of 400 estimates within 4 standard errors of the exact value at each of 5 points: false alarms 3e-4."""
    x = PLANE.sample(5, torch.Generator().manual_seed(0))
    exact = log_density(PLANE.denoise, x, PATHS[0])
    many = x.expand(400, 5, 2)
    found = log_density(PLANE.denoise, many, PATHS[0], generator=torch.Generator().manual_seed(1))
    error = found.std(0) / 20
    assert (error > 1e-3).all()  # it is an estimate
    assert ((found.mean(0) - exact).abs() < 4 * error + 1e-3).all()


def test_many_dimensions_ask_for_an_estimate():
    with pytest.raises(ValueError, match="pass a generator"):
        log_density(lambda y, s: y, torch.zeros(1, 33), PATHS[0])
