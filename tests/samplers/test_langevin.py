"""Langevin: the integral of the score, the cap of the step, covariances that are given."""

from __future__ import annotations

import math

import pytest
import torch
from samplers.targets import Gaussians, is_standard_normal, normal, seeded

from sciinf.simulators.samplers import Langevin, langevin


def rise(score, begin, end, panels):
    terrain = langevin._Score(score, panels)
    return terrain.step(terrain.begin(begin), end)[1]


def wavy(x):
    return torch.sin(x).sum(-1)


@pytest.mark.parametrize(("panels", "order", "constant"), [(0, 3, 1 / 12), (1, 5, 1 / 2880), (3, 5, 1 / 2880 / 81)])
def test_error_of_the_integral_is_of_the_order_stated(panels, order, constant):
    begin, direction = normal(50, 2, 1), normal(50, 2, 1, seed=1)
    errors = []
    for size in (0.1, 0.05):
        end = begin + size * direction
        error = rise(torch.cos, begin, end, panels) - (wavy(end) - wavy(begin))
        assert bool((error.abs() <= constant * (size * direction[..., 0]).abs() ** order + 1e-14).all())
        errors.append(float(error.square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("panels", "degree"), [(0, 2), (1, 4), (4, 4)])
def test_integral_is_exact_for_polynomials_and_the_same_backwards(panels, degree):
    begin, end = normal(20, 3, 2), normal(20, 3, 2, seed=1)
    there = rise(lambda x: -degree * x ** (degree - 1), begin, end, panels)
    torch.testing.assert_close(there, (begin**degree - end**degree).sum(-1))
    torch.testing.assert_close(rise(torch.cos, end, begin, panels), -rise(torch.cos, begin, end, panels))


@pytest.mark.parametrize("panels", [0, 2])
def test_scores_of_gaussians_are_enough(panels):
    target = Gaussians(2)
    precision = torch.linalg.inv(target.covariance)

    def score(x):
        return -torch.einsum("bij,cbj->cbi", precision, x - target.mean)

    found = Langevin(300, panels=panels).draw_from_score(score, target.start(16), 400, generator=seeded(1))
    assert is_standard_normal(target.whitened(found.draws))
    assert found.evaluations == 16 * 3 * (1 + 700 * max(2 * panels, 1))


def test_acceptance_is_the_one_wanted():
    target = Gaussians(10)
    for wanted in (0.574, 0.8):
        found = Langevin(300, acceptance=wanted).draw(target, target.start(16), 100, generator=seeded())
        assert bool(((found.acceptance - wanted).abs() < 0.08).all())


def test_a_given_covariance_is_used_and_makes_up_for_a_short_warm_up(monkeypatch):
    target, used = Gaussians(4), []
    given = langevin._move

    def watched(terrain, point, metric, delta, generator):
        used.append(metric.factor)
        return given(terrain, point, metric, delta, generator)

    monkeypatch.setattr(langevin, "_move", watched)
    found = Langevin(60).draw(target, target.start(16), 400, generator=seeded(), covariance=target.covariance)
    assert all(torch.equal(factor, target.root) for factor in used)
    assert is_standard_normal(target.whitened(found.draws))


@pytest.mark.parametrize("given", [True, False])
def test_steps_stay_below_the_cap(given, monkeypatch):
    # the scales alone leave a curvature of 1 / (1 - 0.9) in the direction (1, -1); acceptance asks for more than 0.05
    correlated = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)[None]
    precision, used = torch.linalg.inv(correlated), []
    move = langevin._move

    def watched(terrain, point, metric, delta, generator):
        used.append(float(delta))
        return move(terrain, point, metric, delta, generator)

    monkeypatch.setattr(langevin, "_move", watched)
    Langevin(300, dense=False, cap=0.5).draw(
        lambda x: -0.5 * torch.einsum("cbi,bij,cbj->cb", x, precision, x),
        normal(16, 1, 2),
        10,
        generator=seeded(),
        covariance=correlated if given else None,
    )
    assert used[-1] == pytest.approx(0.05, rel=0.2)
    assert max(used[0 if given else 250 :]) < 0.06


def test_scores_that_are_not_finite_are_a_rejection_and_no_place_to_start():
    def score(x):
        return torch.where(x > 0, 2 / x - 1, math.nan)

    found = Langevin(100, panels=1).draw_from_score(score, normal(8, 1, 1).abs() + 1, 200, generator=seeded())
    assert bool((found.draws > 0).all())
    start = torch.ones(8, 1, 1)
    start[:3] = -1
    with pytest.raises(ValueError, match="3 of 8 chains start where the score is -inf, NaN or infinite, in target 0"):
        Langevin(100).draw_from_score(score, start, 10, generator=seeded())


def test_wrong_input_is_refused():
    target = Gaussians(2)
    start = target.start(2)
    with pytest.raises(ValueError, match=r"the score at .* has shape \(2, 3\), expected the same shape"):
        Langevin().draw_from_score(lambda x: x.sum(-1), start, 10, generator=seeded())
    with pytest.raises(ValueError, match=r"covariance has shape \(2, 2\), expected \(3, 2, 2\), one matrix for each"):
        Langevin().draw(target, start, 10, generator=seeded(), covariance=torch.eye(2))
    covariance = target.covariance * torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    with pytest.raises(ValueError, match="the covariance of target 1 is not positive definite"):
        Langevin().draw(target, start, 10, generator=seeded(), covariance=covariance)
    with pytest.raises(ValueError, match="cap is 4.0, expected a number between 0 and 4"):
        Langevin(cap=4.0)
    with pytest.raises(ValueError, match="panels must be an integer of at least 0"):
        Langevin(panels=-1)
