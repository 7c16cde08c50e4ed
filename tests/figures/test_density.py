"""Smoothed densities of weighted draws against known ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from sciinf.interfaces.figures.density import density_1d, density_2d, limits, regions, thresholds


def test_density_of_normal_draws_is_the_normal_density():
    values = np.random.default_rng(0).normal(2.0, 0.5, 20_000)
    grid, density = density_1d(values, np.ones(len(values)), (0.0, 4.0))
    exact = np.exp(-0.5 * ((grid - 2.0) / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi))
    assert np.abs(density - exact).max() < 0.04  # peak 0.8
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)


def test_weights_count():
    rng = np.random.default_rng(1)
    values = rng.uniform(0, 1, 50_000)
    grid, density = density_1d(values, values, (0.0, 1.0))
    middle = (grid > 0.1) & (grid < 0.9)
    assert np.abs(density - 2 * grid)[middle].max() < 0.15


def test_density_does_not_sag_at_a_bound():
    values = np.random.default_rng(2).uniform(0, 1, 50_000)
    _, density = density_1d(values, np.ones(len(values)), (0.0, 1.0))
    assert density[0] == pytest.approx(1.0, abs=0.1)  # half as high without reflection
    assert density[-1] == pytest.approx(1.0, abs=0.1)


def test_limits_hold_the_draws_and_are_never_empty():
    values = np.random.default_rng(3).normal(size=20_000)
    low, high = limits(values, np.ones(len(values)))
    assert low < -2.9
    assert high > 2.9
    assert limits(np.full(5, 3.0), np.ones(5)) == (1.5, 4.5)
    assert limits(np.zeros(5), np.ones(5)) == (-0.5, 0.5)
    bounded = limits(np.linspace(0, 1, 10_001), np.ones(10_001))
    assert bounded == (0.0, 1.0)


def test_limits_ignore_draws_without_weight():
    values = np.concatenate([np.linspace(0, 1, 1000), [1e6]])
    assert limits(values, np.concatenate([np.ones(1000), [0.0]]))[1] <= 1.0


@pytest.mark.parametrize("rho", [0.0, 0.99])
def test_regions_hold_the_mass_they_say(rho):
    rng = np.random.default_rng(4)
    pair = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 20_000)
    x, y, mass = density_2d(pair, np.ones(len(pair)), ((-4, 4), (-4, 4)))
    assert mass.sum() == pytest.approx(1.0)
    low, high = thresholds(mass, (0.5, 0.9))
    assert low < high
    cell = mass[np.searchsorted(y, pair[:, 1]).clip(0, 63), np.searchsorted(x, pair[:, 0]).clip(0, 63)]
    # Grid and kernel widen a ridge of a few cells; a kernel that ignored the correlation would put this below 0.2.
    assert 0.8 < (cell >= low).mean() <= 0.97
    assert 0.35 < (cell >= high).mean() < 0.65


def test_one_heavy_draw_makes_no_island():
    """The planted fault: a draw far out with a fiftieth of all weight. Forty draws there are another matter."""
    rng = np.random.default_rng(5)
    pair, box = rng.normal(size=(4000, 2)), ((-4.0, 9.0), (-4.0, 9.0))
    for count, islands in ((1, 1), (40, 2)):
        far = np.full((count, 2), 7.0) + 0.01 * rng.normal(size=(count, 2))
        weights = np.concatenate([np.ones(4000), np.full(count, 160.0 / count)])
        _, _, mass, edges = regions(np.concatenate([pair, far]), weights, box, (0.5, 0.99))
        assert label(mass >= edges[0.99])[1] == islands
