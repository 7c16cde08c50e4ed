"""The simultaneous band holds at its level, and a miscalibrated posterior leaves it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from sciinf.interfaces.figures.calibration import binomial_band, coverage_figure, rank_curves, ranks_figure
from sciinf.interfaces.figures.svg import to_svg

LEVELS = np.linspace(0.05, 0.95, 19)


def test_exact_ranks_stay_inside_with_the_stated_probability():
    ranks = np.random.default_rng(0).integers(0, 128, size=(500, 1000))
    inside = np.mean([curve.inside for curve in rank_curves(ranks, 127)])
    # 1000 independent curves at 99 %: Binomial(1000, 0.99) is outside 0.975..0.999 with probability below 2e-4; the
    # band's own level is simulated to 0.2 %.
    assert 0.972 <= inside <= 0.999


@pytest.mark.parametrize(
    "warp",
    [lambda u: u**1.25, lambda u: 0.5 + 0.4 * (2 * u - 1), lambda u: np.where(u < 0.5, 2 * u**2, 1 - 2 * (1 - u) ** 2)],
)
def test_biased_wide_and_narrow_posteriors_leave_the_band(warp):
    u = warp(np.random.default_rng(1).uniform(size=(2000, 3)))
    curves = rank_curves((u * 128).astype(int), 127)
    assert not any(curve.inside for curve in curves)


def test_curve_is_the_distribution_function_minus_the_uniform_one():
    ranks = np.zeros((100, 1), dtype=int)
    curve = rank_curves(ranks, 9)[0]
    np.testing.assert_allclose(curve.z, np.arange(1, 10) / 10)
    np.testing.assert_allclose(curve.difference, 1 - curve.z)


def test_band_is_wider_than_pointwise_and_the_same_for_the_same_seed():
    ranks = np.random.default_rng(2).integers(0, 128, size=(1000, 1))
    one, two = rank_curves(ranks, 127)[0], rank_curves(ranks, 127)[0]
    np.testing.assert_array_equal(one.low, two.low)
    low, high = binomial_band(one.z, 1000)
    assert (one.high >= high - one.z - 1e-9).all()
    assert (one.low <= low - one.z + 1e-9).all()


def test_binomial_band_is_the_binomial_interval():
    low, high = binomial_band(np.array([0.5]), 100)
    assert (low[0], high[0]) == (binom.ppf(0.005, 100, 0.5) / 100, binom.ppf(0.995, 100, 0.5) / 100)


def test_coverage_figure_has_both_curves_and_the_band():
    figure = coverage_figure(LEVELS, LEVELS - 0.02, LEVELS + 0.01, 1000)
    left, right = figure.axes
    assert {"highest-density regions", "TARP"} <= {line.get_label() for line in left.lines}
    assert len(left.collections) == len(right.collections) == 1
    drawn = next(line for line in right.lines if line.get_label() == "TARP")
    np.testing.assert_allclose(drawn.get_ydata(), 0.01)
    assert left.get_xlabel() == "nominal credible level"


def test_coverage_figure_without_density():
    figure = coverage_figure(LEVELS, np.array([]), LEVELS, 300)
    assert "highest-density regions" not in {line.get_label() for line in figure.axes[0].lines}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 26])
def test_ranks_figure_has_a_titled_panel_per_parameter(count):
    ranks = np.random.default_rng(3).integers(0, 128, size=(400, count))
    names = [f"p{i}" for i in range(count)]
    figure = ranks_figure(names, rank_curves(ranks, 127))
    titles = [a.get_title(loc="left") for a in figure.axes if a.get_visible()]
    assert titles == names[:24]
    assert "<svg" in to_svg(figure, "ranks", "r")
