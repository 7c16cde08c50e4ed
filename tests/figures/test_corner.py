"""The corner plot has the panels, labels and lines it should, for one parameter and for twelve."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from sciinf.interfaces.figures.corner import corner, windows
from sciinf.interfaces.figures.style import MUTED, VERMILION
from sciinf.interfaces.figures.svg import to_svg


def draws(count: int) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    theta = rng.normal(size=(2000, count)) + rng.normal(size=(2000, 1))
    return [f"p{i}" for i in range(count)], ["1/h"] * count, theta, rng.uniform(size=2000)


def colours(axes) -> list[str]:
    return [to_hex(line.get_color()) for line in axes.lines]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_one_panel_per_parameter_and_pair_with_units_at_the_edges(count):
    names, units, theta, weights = draws(count)
    figure = corner(names, units, theta, weights)
    assert len(figure.axes) == count * (count + 1) // 2
    below = [a.get_xlabel() for a in figure.axes if a.get_xlabel()]
    assert [text.split()[0] for text in below] == names
    assert all("[h⁻¹]" in text for text in below)
    if count > 1:
        beside = [a.get_ylabel() for a in figure.axes if a.get_ylabel()]
        assert [text.split()[0] for text in beside] == names[1:]
    assert len(to_svg(figure, "corner", "c")) < 1_500_000


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5, 8])
def test_no_label_is_cut(count):
    names, _, theta, weights = draws(count)
    figure = corner([f"{n}_with_a_long_name" for n in names], ["km s-1 Mpc-1"] * count, theta - 123456.0, weights)
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0


def test_contours_follow_the_draws():
    names, units, theta, weights = draws(2)
    axes = corner(names, units, theta, weights).axes[1]
    outer = np.concatenate([p.vertices for c in axes.collections for p in c.get_paths()])
    assert np.corrcoef(outer.T)[0, 1] > 0.2
    assert np.abs(outer.mean(axis=0) - np.average(theta, axis=0, weights=weights)).max() < 0.4


def test_prior_and_truth_are_drawn_where_given_and_only_there():
    names, units, theta, weights = draws(2)
    grid = np.linspace(-3, 3, 50)
    plain = corner(names, units, theta, weights)
    assert not any(c in (MUTED, VERMILION) for a in plain.axes for c in colours(a))
    figure = corner(names, units, theta, weights, prior={"p0": (grid, np.full(50, 0.1))}, truth={"p1": 0.5})
    first, pair, second = figure.axes
    assert MUTED in colours(first)
    assert VERMILION not in colours(first)
    assert MUTED not in colours(second)
    assert VERMILION in colours(second)
    assert VERMILION in colours(pair)


def test_the_window_stretches_to_a_truth_outside_the_draws():
    _, _, theta, weights = draws(2)
    (low, high), second = windows(theta, weights, [50.0, None])
    assert low < 0 < 50 < high
    assert second[1] < 20


def test_identical_draws_can_be_drawn():
    figure = corner(["a", "b"], ["", ""], np.ones((20, 2)), np.ones(20))
    assert "svg" in to_svg(figure, "flat", "f")


def test_names_are_never_read_as_markup():
    names, units, theta, weights = draws(2)
    svg = to_svg(corner(["$x_{", "<script>"], units, theta, weights), 'a "quoted" <alt>', "c")
    assert "$x_{ [h⁻¹]" in svg
    assert "&lt;script&gt;" in svg
    assert "<script" not in svg
    assert names
