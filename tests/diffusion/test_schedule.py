"""Paths: the level and its time undo each other, the rates are those of the SDE, and noise follows it."""

from __future__ import annotations

import pytest
import torch

from sciinf.networks.diffusion.grid import Clock, Geometric, Power
from sciinf.networks.diffusion.schedule import (
    Cosine,
    NoiseLevel,
    Straight,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)

PATHS = [
    VariancePreserving(),
    VariancePreserving(0.0, 12.0),
    SubVariancePreserving(),
    Cosine(),
    VarianceExploding(),
    NoiseLevel(),
    Straight(),
]
paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)


def inside(path, count=50):
    """Times well within the path, for differences."""
    levels = torch.linspace(-5.0, 2.5, count, dtype=torch.float64).exp()
    return path.time(levels)


@paths
def test_level_and_time_undo_each_other(path):
    levels = Geometric().levels(path, 100)
    torch.testing.assert_close(path.level(path.time(levels)), levels, rtol=1e-6, atol=0)
    assert (path.time(levels).diff() < 0).all()


@paths
def test_rates_are_the_derivatives_of_what_is_left_and_of_the_variance(path):
    t = inside(path)
    step = 1e-6 * t
    drift, diffusion = path.rates(t)

    def slope(of):
        return (of(t + step) - of(t - step)) / (2 * step)

    torch.testing.assert_close(drift, slope(lambda v: path.alpha(v).log()), rtol=1e-5, atol=1e-7)
    grown = slope(lambda v: path.sigma(v) ** 2) - 2 * drift * path.sigma(t) ** 2
    torch.testing.assert_close(diffusion, grown, rtol=1e-4, atol=1e-8)


def test_paths_are_those_of_their_names():
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for path in (VariancePreserving(), Cosine()):
        torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))
    sub = SubVariancePreserving()
    torch.testing.assert_close(sub.sigma(t), 1 - sub.alpha(t) ** 2)
    torch.testing.assert_close(Straight().alpha(t) + Straight().sigma(t), torch.ones_like(t))
    torch.testing.assert_close(NoiseLevel().sigma(t), t)
    exploding = VarianceExploding(0.01, 10.0)
    torch.testing.assert_close(exploding.sigma(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.01, 0.1**0.5, 10.0]))


@paths
@pytest.mark.parametrize("grid", [Power(), Geometric(), Clock()], ids=lambda grid: type(grid).__name__)
def test_grids_fall_from_the_highest_level_to_the_lowest(path, grid):
    levels = grid.levels(path, 20)
    assert len(levels) == 21
    assert (levels.diff() < 0).all()
    ends = torch.tensor([path.most, path.least], dtype=torch.float64)
    torch.testing.assert_close(levels[[0, -1]], ends, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: NoiseLevel(0.0, 1.0),
        lambda: Cosine(2.0, 1.0),
        lambda: VariancePreserving(5.0, 1.0),
        lambda: SubVariancePreserving(-1.0, 1.0),
        lambda: Straight(1e-3, float("inf")),
        lambda: Power(0.0),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"got"):
        wrong()
