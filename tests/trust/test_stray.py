"""A few draws far out are named where they carry the sd, and ordinary tails are not."""

from __future__ import annotations

import torch

from sciinf.core import Draws
from sciinf.trust.stray import check_stray


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
    assert check.verdict.startswith("10 of 10,000 draws carry 5")
    assert "of the variance of a: read median and interval" in check.verdict
    assert "of b" not in check.verdict


def test_a_draw_of_no_weight_is_no_stray_one_until_it_is_very_far() -> None:
    theta, weight = ordinary(), torch.zeros(10_000, dtype=torch.float64)
    theta[0, 0], weight[0] = 1e3, -30.0
    assert check_stray(of(theta, weight)) == ()
    theta[0, 0] = 1e16
    assert len(check_stray(of(theta, weight))) == 1


def test_few_draws_cannot_tell() -> None:
    theta = ordinary(200)
    theta[0, 0] = 1e6
    assert check_stray(of(theta)) == ()
