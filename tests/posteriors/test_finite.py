"""Draws that are not finite are left out if they are few, and no answer if they are many."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.core import Draws
from sciinf.posteriors.finite import finite, left_out


def draws(lost=0, n=1_000, log_weight=0.0):
    theta = torch.linspace(0, 1, n)[:, None].repeat(1, 2)
    theta[:lost, 1] = torch.tensor([math.nan, math.inf, -math.inf]).repeat(n)[:lost]
    return Draws(("a", "b"), ("", ""), theta, torch.full((n,), log_weight, dtype=torch.float64))


def test_whole_draws_stay_as_they_are():
    whole = draws()
    assert finite(whole) is whole
    assert left_out(whole, whole) == ()


def test_few_are_left_out_and_told():
    drawn = draws(lost=10)
    kept = finite(drawn)
    assert len(kept) == len(kept.log_weight) == 990
    assert bool(kept.theta.isfinite().all())
    (said,) = left_out(drawn, kept)
    assert said.level == "caution"
    assert said.words.startswith("10 of 1,000 draws are not finite")


def test_many_or_weights_that_are_none_are_no_answer():
    with pytest.raises(ValueError, match=r"11 of 1,000 posterior draws are not finite.*train again"):
        finite(draws(lost=11))
    with pytest.raises(ValueError, match="1,000 of 1,000 posterior draws are not finite"):
        finite(draws(log_weight=math.nan))
    with pytest.raises(ValueError, match="have weight 0"):
        finite(draws(log_weight=-math.inf))
