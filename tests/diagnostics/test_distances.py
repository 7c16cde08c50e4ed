"""Scores of ensembles and distances of laws against what they must be."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sciinf.diagnostics.distances import (
    crps,
    energy_score,
    interval,
    interval_coverage,
    octaves,
    rank_histogram,
    sliced_wasserstein,
    spread_skill,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian_crps(mean, sd, true):
    z = (true - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize(("count", "rows"), [(2, 40_000), (5, 40_000), (400, 4_000)])
def test_crps_is_fair_to_any_number_of_draws(count, rows):
    # the mean over so many ensembles has a sd of at most 0.006
    draws = 0.5 + 2 * torch.randn(count, rows, generator=generator(), dtype=torch.float64)
    found = float(crps(draws, torch.full((rows,), 1.5, dtype=torch.float64)).mean())
    assert found == pytest.approx(gaussian_crps(0.5, 2.0, 1.5), abs=0.03)


def test_scores_of_an_ensemble_that_is_right_and_of_one_that_is_not():
    truth = torch.randn(3_000, 4, generator=generator())
    draws = torch.randn(9, 3_000, 4, generator=generator(1))
    assert spread_skill(draws, truth) == pytest.approx(1.0, abs=0.04)
    counts = rank_histogram(draws, truth)
    assert counts.sum() == 12_000
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    narrow = draws / 2  # the fault
    assert spread_skill(narrow, truth) < 0.7
    assert stats.chisquare(rank_histogram(narrow, truth).numpy()).pvalue < 1e-6
    with pytest.raises(ValueError, match="two draws"):
        crps(draws[:1], truth)


@pytest.mark.parametrize(("count", "level"), [(5, 2 / 3), (24, 0.9), (400, 0.8)])
def test_intervals_hold_as_many_as_they_say(count, level):
    """Of 12,000 truths as many as said within five binomial sds, a false alarm in less than a million."""
    truth, draws = torch.randn(3_000, 4, generator=generator()), torch.randn(count, 3_000, 4, generator=generator(1))
    error = 5 * math.sqrt(level * (1 - level) / 12_000)
    assert abs(float(interval_coverage(draws, truth, level).mean()) - level) < error
    ends = draws.reshape(count, -1).quantile(torch.tensor([0.5 - level / 2, 0.5 + level / 2]), dim=0)
    plain = ((truth.flatten() >= ends[0]) & (truth.flatten() <= ends[1])).double().mean()  # the fault: plain quantiles
    assert count > 100 or float(plain) < level - error


def test_intervals_that_cannot_be_are_refused():
    draws = torch.randn(5, 3)
    with pytest.raises(
        ValueError, match=r"5 draws have no interval of level 0.9: give at least 19, or .* at most 0.667"
    ):
        interval(draws, 0.9)
    assert [end.tolist() for end in interval(draws, 2 / 3)] == [
        draws.min(0).values.tolist(),
        draws.max(0).values.tolist(),
    ]
    for level in (0.0, 1.2, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval_coverage(draws, draws[0], level)


def test_the_plain_crps_gains_by_more_draws():
    """By half of the mean distance of two draws, 1 / K of it; each mean has a sd of at most 0.006."""
    for count in (2, 10):
        draws = torch.randn(count, 40_000, generator=generator(), dtype=torch.float64)
        truth = torch.randn(40_000, generator=generator(1), dtype=torch.float64)
        gain = (crps(draws, truth, fair=False) - crps(draws, truth)).mean()
        assert float(gain) == pytest.approx(1 / math.sqrt(math.pi) / count, abs=0.03)


@pytest.mark.parametrize("fair", [True, False])
def test_the_energy_score_of_one_number_is_the_crps(fair):
    draws, truth = torch.randn(7, 30, 1, generator=generator()), torch.randn(30, 1, generator=generator(1))
    found = energy_score(draws, truth, fair=fair)
    torch.testing.assert_close(found, crps(draws, truth, fair=fair)[:, 0], rtol=1e-4, atol=1e-5)


def test_the_energy_score_is_exact_and_sees_how_numbers_go_together():
    """Of two standard normal numbers it is sqrt(pi) / 2 on average; 4,000 have a sd of 0.008."""
    truth = torch.randn(4_000, 2, generator=generator())
    draws = torch.randn(12, 4_000, 2, generator=generator(1))
    right = float(energy_score(draws, truth).mean())
    assert right == pytest.approx(math.sqrt(math.pi) / 2, abs=0.04)
    tied = draws[..., :1].expand(-1, -1, 2)  # the fault: each number has its law, and both are the same
    assert float(crps(tied, truth).mean()) == pytest.approx(float(crps(draws, truth).mean()), abs=0.02)
    assert float(energy_score(tied, truth).mean()) > right + 0.03
    fields = truth.reshape(4_000, 1, 2, 1), draws.reshape(12, 4_000, 1, 2, 1)
    assert float(energy_score(fields[1], fields[0]).mean()) == pytest.approx(right, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("other", [5_000, 3_001])
def test_the_sliced_distance_of_moved_and_widened_normals_is_known(order, other):
    """Of N(0, I) and N(m, s^2 I) in D dimensions its square is |m|^2 / D + (s - 1)^2, told to 5 % by so many draws."""
    one = torch.randn(5_000, 3, generator=generator())
    moved = 1.5 * torch.randn(other, 3, generator=generator(1)) + torch.tensor([2.0, 0.0, 1.0])
    found = sliced_wasserstein(one, moved, order=order)
    assert found == pytest.approx(sliced_wasserstein(moved, one, order=order), rel=1e-4)
    if order == 2:
        assert found == pytest.approx(math.sqrt(5 / 3 + 0.25), rel=0.06)
    else:  # of each direction at least the distance of means
        assert math.sqrt(5 / 3) * 0.7 < found < math.sqrt(5 / 3 + 0.25)
    assert sliced_wasserstein(one, one.flip(0), order=order) == 0.0
    assert sliced_wasserstein(one, torch.randn(other, 3, generator=generator(2)), order=order) < 0.06


def test_draws_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"got \(5, 3\) and \(5, 2\)"):
        sliced_wasserstein(torch.randn(5, 3), torch.randn(5, 2))
    with pytest.raises(ValueError, match="two draws"):
        sliced_wasserstein(torch.randn(5, 3), torch.randn(1, 3))
    with pytest.raises(ValueError, match="two draws"):
        energy_score(torch.randn(1, 4, 3), torch.randn(4, 3))


@pytest.mark.parametrize("axes", [1, 2])
def test_energy_lies_in_the_octave_of_its_wave(axes):
    x = 2 * math.pi * torch.arange(32) / 32
    wave = 3 * torch.cos(5 * x) + 7
    fields = torch.stack([wave, torch.cos(x)]) if axes == 1 else torch.stack([wave[:, None] * torch.ones(32)])
    found = octaves(fields, axes)
    assert found.shape == (len(fields), 4)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 4.5, 0.0]), atol=1e-4, rtol=1e-4)
    if axes == 1:
        torch.testing.assert_close(found[1], torch.tensor([0.5, 0.0, 0.0, 0.0]), atol=1e-5, rtol=1e-4)


def test_octaves_add_up_to_the_mean_square():
    fields = torch.randn(3, 2, 64, generator=generator())
    waves = torch.fft.fft(fields, norm="forward").abs().square()
    beyond = waves[..., 0] + waves[..., 32]
    torch.testing.assert_close(octaves(fields).sum(-1) + beyond, fields.square().mean(-1), rtol=1e-4, atol=1e-5)
