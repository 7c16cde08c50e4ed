"""Too few draws for an interval are told, by how much its ends wander."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
import torch

from sciinf.core import Case, Draws, Finding
from sciinf.core.categories import Categories
from sciinf.diagnostics.few import FewDraws


def drawn(n: int, log_weight: torch.Tensor | None = None) -> Draws:
    theta = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    return Draws(("a",), ("",), theta, torch.zeros(n) if log_weight is None else log_weight)


def check_few(draws: Draws, level: float) -> tuple[Finding, ...]:
    return FewDraws()(Case(cast(Any, None), draws, level))


def test_the_error_is_that_of_the_ends_from_seed_to_seed() -> None:
    """400 seeds of 40 draws: the sd of a lower end has a relative error of 4 %, the formula's order 1/n one of 10 %."""
    (check,) = check_few(drawn(40), 0.9)
    found = re.search(r"by ([\d.]+) sd", check.words)
    assert found is not None
    said = float(found[1])
    ends = torch.randn(400, 40, generator=torch.Generator().manual_seed(1)).quantile(0.05, dim=1)
    assert said == pytest.approx(float(ends.std()), rel=0.35)
    assert check.level == "caution"


@pytest.mark.parametrize(
    ("n", "level", "told"), [(60, 0.9, True), (80, 0.9, False), (80, 0.99, True), (400, 0.99, False)]
)
def test_more_are_needed_at_higher_levels(n: int, level: float, told: bool) -> None:
    assert bool(check_few(drawn(n), level)) == told


def test_weights_count_for_what_they_are_worth() -> None:
    log_weight = torch.full((1_000,), -20.0, dtype=torch.float64)
    log_weight[:5] = 0.0
    (check,) = check_few(drawn(1_000, log_weight), 0.9)
    assert "effective size of 5" in check.words
    assert "80 effective ones" in check.words


def test_of_a_parameter_that_exists_sometimes_the_draws_in_which_it_does_count() -> None:
    theta = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    theta[:, 0] = (torch.arange(300) < 30).float()
    theta[theta[:, 0] == 0, 1] = torch.nan
    found = Draws(
        ("k", "a"), ("", ""), theta, torch.zeros(300), categories={"k": Categories((0.0, 1.0), ("0", "1"), (0.5, 0.5))}
    )
    (check,) = check_few(found, 0.9)
    assert "of a, which exists in 0.1 of them" in check.words
    theta[3:, 0], theta[3:, 1] = 0.0, torch.nan
    assert not check_few(found, 0.9)  # it all but never exists
