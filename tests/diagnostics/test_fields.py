"""Bands and scores of predicted fields against what they must be."""

from __future__ import annotations

import pytest
import torch
from emulators.fields import Decay
from scipy import stats

from sciinf.core import Batch, predicted
from sciinf.diagnostics.fields import conformal
from sciinf.emulators import Operator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, seed):
    equation = Decay()
    theta = equation.prior.sample(n, generator=generator(seed))
    return Batch(theta, equation(theta, generator=generator(seed + 1)))


@pytest.fixture(scope="module")
def surrogate():
    """It knows nothing, which bands must do with."""
    equation = Decay()
    return Operator(equation.prior, equation.observables)


def test_a_band_around_whole_fields_holds_one(surrogate):
    # Given the band, what it holds is Beta(k, m + 1 - k), k = 181 of m = 200 (as many tell the rms), and of 2,000
    # fields binomially many: outside of these bounds once in 10,000 times.
    band = conformal(surrogate, rows(400, 0), level=0.9, simultaneous=True)
    fresh = rows(2_000, 10)
    inside = int((band.holds(surrogate, fresh) == 1).sum())
    law = stats.betabinom(2_000, 181, 20)
    assert law.ppf(5e-5) <= inside <= law.ppf(1 - 5e-5)


def test_a_band_at_each_point_holds_it(surrogate):
    band = conformal(surrogate, rows(200, 0), level=0.8)
    fresh = rows(2_000, 10)
    low, high = band.around(surrogate, fresh)
    held = ((fresh.x["u"] >= low) & (fresh.x["u"] <= high)).double().mean(0).flatten()
    law = stats.betabinom(2_000, 161, 40)  # at each of 48 points; bounds at 1e-6 of each
    assert law.ppf(1e-6) / 2_000 <= float(held.min())
    assert float(held.max()) <= law.ppf(1 - 1e-6) / 2_000
    assert torch.allclose((high + low) / 2, predicted(surrogate, fresh), atol=1e-5)


def test_a_band_from_the_rows_of_other_predictions_does_not_hold(surrogate):
    # the fault: a band of a better surrogate
    band = conformal(surrogate, rows(200, 0), level=0.9)
    half = type(band)(band.width / 2, band.level, band.simultaneous, band.simulations)
    fresh = rows(500, 10)
    assert float(half.holds(surrogate, fresh).mean()) < 0.75


def test_a_band_holds_where_errors_are_here_and_there(surrogate):
    # what a band that takes its scale from the rows it ranks does not: each row's error sits at a point of its own
    equation = Decay()
    theta = equation.prior.sample(460, generator=generator())
    x = equation(theta, generator=generator(1))
    x["u"] = predicted(surrogate, Batch(theta, x))
    flat = x["u"].flatten(1)
    at = torch.randint(flat.shape[1], (460, 1), generator=generator(2))
    flat.scatter_add_(1, at, torch.randn(460, 1, generator=generator(3)))
    every = Batch(theta, x)
    band = conformal(surrogate, every.rows(slice(0, 60)), level=0.8, simultaneous=True)
    inside = int((band.holds(surrogate, every.rows(slice(60, 460))) == 1).sum())
    law = stats.betabinom(400, 25, 6)  # k = 25 of m = 30
    assert inside >= law.ppf(1e-4)


def test_bands_that_cannot_be_are_refused(surrogate):
    with pytest.raises(ValueError, match="give at least 99"):
        conformal(surrogate, rows(50, 0), level=0.99)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal(surrogate, rows(50, 0), level=90)
