"""A few draws far out are named where they carry the sd, and ordinary tails are not."""

from __future__ import annotations

import math
import re

import pytest
import torch

from sciinf.core import Draws
from sciinf.diagnostics.stray import check_stray, tail_index


def of(theta: torch.Tensor, log_weight: torch.Tensor | None = None) -> Draws:
    weight = torch.zeros(len(theta)) if log_weight is None else log_weight
    return Draws(("a", "b"), ("", ""), theta, weight)


def ordinary(n: int = 10_000) -> torch.Tensor:
    """Normal and Laplace tails."""
    noise = torch.rand(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    laplace = torch.where(noise[:, 1] < 0.5, (2 * noise[:, 1]).log(), -(2 - 2 * noise[:, 1]).log())
    return torch.stack([torch.special.ndtri(noise[:, 0]), laplace], dim=1)


def test_three_draws_that_carry_the_sd_are_named() -> None:
    theta = ordinary()
    assert check_stray(of(theta)) == ()
    theta[:3, 0] = torch.tensor([50.0, -60.0, 70.0])
    (check,) = check_stray(of(theta))
    assert check.level == "caution"
    assert check.words.startswith("10 of 10,000 draws carry 5")
    assert "of the variance of a: read median and interval" in check.words
    assert "of b" not in check.words
    # 10,000 normal numbers have an sd of 1 within .03, and sqrt(1 + 1.1) = 1.45 with these three
    assert check.words.endswith("; without them the sd of a is 1.0, not 1.5")


def test_weights_that_few_draws_carry_are_no_strays() -> None:
    """A thousandth of all draws carries a sixth of the weight here, wherever it lies; the ESS tells of that."""
    theta, generator = ordinary(100_000), torch.Generator().manual_seed(1)
    log_weight = 2.2 * torch.randn(len(theta), generator=generator, dtype=torch.float64)
    draws = of(theta, log_weight)
    assert float(draws.weights.topk(100).values.sum()) > 0.15
    assert check_stray(draws) == ()


def test_a_draw_of_no_weight_is_no_stray_one_until_it_is_very_far() -> None:
    theta, weight = ordinary(), torch.zeros(10_000, dtype=torch.float64)
    theta[0, 0], weight[0] = 1e3, -30.0
    assert check_stray(of(theta, weight)) == ()
    theta[0, 0] = 1e16
    assert len(check_stray(of(theta, weight))) == 1


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_the_power_of_a_tail_is_found(power: float) -> None:
    """Of a Pareto law, Hill's index of its k farthest draws is the power within power / sqrt(k)."""
    distance = torch.rand(40_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** (-1 / power)
    weights = torch.full((40_000,), 1 / 40_000, dtype=torch.float64)
    assert tail_index(distance, weights) == pytest.approx(power, rel=4 / math.sqrt(400))  # false alarms 6e-5
    half = torch.cat([distance, 2 * distance]), torch.cat([weights, 0 * weights])  # draws of no weight
    assert tail_index(*half) == pytest.approx(tail_index(distance, weights), rel=0.01)


def test_a_law_without_a_variance_is_said_to_have_none() -> None:
    theta = ordinary()
    theta[:, 1] = torch.tan(math.pi * (torch.rand(10_000, generator=torch.Generator().manual_seed(2)) - 0.5))
    (check,) = check_stray(of(theta))
    assert "of the variance of b" in check.words
    power = re.search(r"its draws fall off like the power (\d\.\d): with more of them it grows", check.words)
    assert power is not None
    assert float(power[1]) == pytest.approx(1.0, abs=0.45)  # 100 draws, sd .1, rounded


def test_few_draws_cannot_tell() -> None:
    theta = ordinary(200)
    theta[0, 0] = 1e6
    assert check_stray(of(theta)) == ()
