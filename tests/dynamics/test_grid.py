"""Grids, spectral derivatives, interpolation and random fields against what they must be."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sciinf.simulators.dynamics.grid import BoxGrid, GridInterpolation
from sciinf.simulators.dynamics.random_field import Known, RandomField, Waves

GRID = BoxGrid((16, 24), (2.0, 3.0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def wave(grid, a, b):
    y, x = grid.coordinates
    phase = 2 * math.pi * (a * y / grid.lengths[0] + b * x / grid.lengths[1])
    return phase


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_of_waves_are_exact(axis, order):
    phase, k = wave(GRID, 2, 3), 2 * math.pi * (2, 3)[axis] / GRID.lengths[axis]
    expected = k**order * (phase.cos(), -phase.sin(), -phase.cos())[order - 1]
    assert torch.allclose(GRID.derivative(phase.sin(), axis, order), expected, atol=1e-9)


def test_a_derivative_along_the_other_direction_is_seen():
    # the fault: axes confused
    phase = wave(GRID, 1, 3)
    right = 2 * math.pi * 1 / GRID.lengths[0] * phase.cos()
    assert not torch.allclose(GRID.derivative(phase.sin(), 1), right, atol=1e-2)


def test_the_highest_wave_has_no_slope_of_odd_order():
    grid = BoxGrid((8,), (1.0,))
    highest = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    assert torch.allclose(grid.derivative(highest, -1), torch.zeros(8, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(grid.derivative(highest, -1, 2), -((2 * math.pi * 4) ** 2) * highest)


def test_products_of_kept_modes_alias_onto_no_kept_one():
    grid = BoxGrid((12,), (1.0,))
    assert grid.kept.tolist() == [True] * 4 + [False] * 3  # 3 + 3 = 6 and 12 - 6 = 6 are both cut


def test_points_interpolate_linearly_and_around_the_ring():
    line = BoxGrid((5,), (1.0,), periodic=False)
    field = 2 * line.coordinates[0] + 1
    at = GridInterpolation(line, (0.0, 0.1, 0.375, 1.0))
    assert torch.allclose(at.of(field), torch.tensor([1.0, 1.2, 1.75, 3.0], dtype=torch.float64))
    ring = BoxGrid((4,), (1.0,))
    values = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    assert GridInterpolation(ring, (0.875, 1.0)).of(values).tolist() == [[1.5, 0.0]]


def test_points_in_the_plane_are_bilinear():
    grid = BoxGrid((4, 6), (3.0, 5.0), periodic=False)
    y, x = grid.coordinates
    at = ((0.5, 0.25), (3.0, 5.0), (2.25, 4.5))
    found = GridInterpolation(grid, at).of(2 * y - 3 * x + y * x)
    assert torch.allclose(found, torch.tensor([2 * a - 3 * b + a * b for a, b in at], dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BoxGrid((8, 8), (1.0,)), "one for each"),
        (lambda: BoxGrid((1,), (1.0,)), "at least 2 points"),
        (lambda: BoxGrid((8,), (-1.0,)), "positive length"),
        (lambda: GridInterpolation(GRID, (0.5,)), "2 coordinates"),
        (lambda: GridInterpolation(GRID, ((0.5, 3.5),)), "outside the box"),
        (lambda: RandomField(-1.0), "positive numbers"),
        (lambda: Waves((), ()), "0 amplitudes"),
        (lambda: Waves((1.0,), (0.1, 0.2)), "2 phases"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def spectrum_of(fields, grid):
    return grid.transformed(fields).abs().square().mean((0, 1)) / fields[0, 0].numel() ** 2


def test_random_fields_have_their_sd_and_spectrum():
    # 2,000 fields: each ratio of powers is chi-squared with 4,000 degrees of freedom over 4,000; with 20 of them, and
    # the bounds at 1e-4, one in 500 right programs would be refused
    grid, field = BoxGrid((64,), (2.0,)), RandomField(0.7, tau=5.0, alpha=2.0)
    draws = field.draw(2_000, 1, grid, generator=generator())
    found = spectrum_of(draws, grid)[1:21]
    k = 2 * math.pi * torch.arange(1, 33, dtype=torch.float64)
    expected = (25 + k**2) ** -2.0
    expected = 0.7**2 * expected / (2 * expected[:-1].sum() + expected[-1])
    low, high = (stats.chi2.ppf(p, 4_000) / 4_000 for p in (5e-5, 1 - 5e-5))
    ratio = found / expected[:20]
    assert bool((ratio > low).all())
    assert bool((ratio < high).all())
    assert float(draws.mean((-1,)).abs().max()) < 1e-12
    assert float(draws.square().mean()) == pytest.approx(0.49, rel=0.1)


def test_a_wrong_spectrum_is_seen():
    # the fault: a field as smooth as alpha = 1.5 has three times the power at the twentieth wave
    grid = BoxGrid((64,), (2.0,))
    rough, right = (
        spectrum_of(RandomField(1.0, tau=5.0, alpha=alpha).draw(500, 1, grid, generator=generator()), grid)
        for alpha in (1.5, 2.0)
    )
    assert float(rough[20] / right[20]) > 2


def test_fields_on_grids_with_edges_do_not_join_at_them():
    grid = BoxGrid((32, 32), (1.0, 1.0), periodic=False)
    draws = RandomField(1.0, tau=5.0, alpha=3.0).draw(400, 1, grid, generator=generator())[:, 0]
    between = (draws[:, :, 0] * draws[:, :, -1]).mean() / draws[:, :, 0].square().mean()
    neighbours = (draws[:, :, 0] * draws[:, :, 1]).mean() / draws[:, :, 0].square().mean()
    assert float(neighbours) > 0.95
    assert float(between) < 0.5


def test_waves_are_the_same_every_time():
    grid = BoxGrid((8, 4), (2.0, 1.0))
    found = Waves((1.0, 0.5), (0.25,)).draw(3, 2, grid, generator=generator())
    y = grid.coordinates[0] / 2
    expected = (2 * math.pi * (y + 0.25)).sin() + 0.5 * (4 * math.pi * y).sin()
    assert found.shape == (3, 2, 8, 4)
    assert torch.allclose(found, expected.expand(3, 2, 8, 4))


def test_a_known_field_is_one_draw_for_all():
    grid, law = BoxGrid((16,), (1.0,)), RandomField(1.0)
    one, two = (Known(law, seed=3).draw(4, 1, grid, generator=generator(s)) for s in (0, 1))
    assert torch.equal(one, two)
    assert torch.equal(one[0], one[3])
    assert torch.equal(one[:1], law.draw(1, 1, grid, generator=generator(3)))
    assert not torch.equal(Known(law, seed=4).draw(1, 1, grid, generator=generator()), one[:1])
    assert (law.random, Known(law).random) == (True, False)


def test_fields_with_edges_are_cut_from_a_wider_box_and_as_smooth():
    """tau goes with the box: in one twice as long, that a field with edges is cut from, waves of 2 tau are as long."""
    edged, wide = BoxGrid((64,), (1.0,), False), BoxGrid((128,), (128 / 63,))
    one = RandomField(1.0, tau=5.0, alpha=2.0).draw(400, 1, edged, generator=generator())
    other = RandomField(1.0, tau=10.0 * 64 / 63, alpha=2.0).draw(400, 1, wide, generator=generator())
    assert float(one.diff(dim=-1).std()) == pytest.approx(float(other.diff(dim=-1).std()), rel=0.05)
