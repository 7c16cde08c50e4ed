"""Ranks where parameters are discrete or exist only sometimes: exact ones are uniform, absent ones take no part.

Seeds do not change; each Kolmogorov-Smirnov test of an exact posterior fails with probability 1e-3.
"""

from __future__ import annotations

import math

import pytest
import torch
from nested import Exact, Nested
from scipy.stats import kstest

from sciinf.core import Batch, X
from sciinf.diagnostics import existing
from sciinf.diagnostics.existing import averages, outside_span, rank_of_last, ranks_among

ROWS, DRAWS = 4_000, 31


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulator() -> Nested:
    return Nested()


@pytest.fixture(scope="module")
def fresh(simulator: Nested) -> Batch:
    theta = simulator.prior.sample(ROWS, generator=seeded(1))
    return Batch(theta, simulator(theta, generator=seeded(2)))


def uniform(ranks: torch.Tensor, draws: int = DRAWS) -> float:
    """p-value of ranks being uniform, spread over their cells."""
    known = ranks[ranks >= 0].double()
    u = (known + torch.rand(len(known), generator=seeded(9), dtype=torch.float64)) / (draws + 1)
    return float(kstest(u.numpy(), "uniform").pvalue)


def test_ranks_of_an_exact_posterior_are_uniform(simulator: Nested, fresh: Batch) -> None:
    draws = Exact(simulator).draw_batched(fresh.x, DRAWS, generator=seeded(3))
    ranks = ranks_among(draws, fresh.theta, seeded(4))
    assert torch.equal(ranks[:, 2] < 0, fresh.theta[:, 0] == 0)  # rows that do not have it take no part
    assert int(ranks.max()) == DRAWS
    for d in range(3):  # false alarms: 3e-3
        assert uniform(ranks[:, d]) > 1e-3


def test_a_shift_of_what_exists_only_sometimes_is_seen(simulator: Nested, fresh: Batch) -> None:
    draws = Exact(simulator, shift=0.3).draw_batched(fresh.x, DRAWS, generator=seeded(3))
    assert uniform(ranks_among(draws, fresh.theta, seeded(4))[:, 2]) < 1e-6


def test_absent_values_at_the_median_fail_on_an_exact_posterior(simulator: Nested, fresh: Batch) -> None:
    # The planted fault that this way of ranking is there for: the slope's median, 0, stands where there is none.
    draws = Exact(simulator).draw_batched(fresh.x, DRAWS, generator=seeded(3)).nan_to_num(0.0)
    assert uniform((draws < fresh.theta.nan_to_num(0.0)).sum(0)[:, 2]) < 1e-12


def test_where_all_draws_have_a_parameter_its_rank_is_the_count_below() -> None:
    draws, truth = torch.randn(DRAWS, 200, 2, generator=seeded()), torch.randn(200, 2, generator=seeded(1))
    assert torch.equal(ranks_among(draws, truth, seeded(2)), (draws < truth).sum(0))


def test_equal_ones_are_ranked_in_random_order() -> None:
    same = torch.ones(DRAWS, 2_000, 1)
    assert uniform(ranks_among(same, same[0], seeded(1))[:, 0]) > 1e-3
    assert uniform(rank_of_last(torch.zeros(DRAWS + 1, 2_000), seeded(2))) > 1e-3
    ordered = torch.arange(5.0)[:, None]
    assert int(rank_of_last(ordered, seeded())) == 4
    assert int(rank_of_last(ordered.flip(0), seeded())) == 0
    endless = torch.full((3, 1), -math.inf)
    assert 0 <= int(rank_of_last(endless, seeded())) <= 2


def test_averages_are_of_what_exists(simulator: Nested, fresh: Batch) -> None:
    draws = Exact(simulator).draw_batched(fresh.x, 15, generator=seeded(5))
    right = averages(simulator.prior, fresh.theta, draws, seeded(6))
    assert all(test.p_value > 1e-3 for test in right.values())  # false alarms: 3e-3
    assert right["average of slope"].rows == int((fresh.theta[:, 0] == 1).sum())
    pulled = draws.clone()
    pulled[..., 2] = 1.4 * pulled[..., 2]
    wrong = averages(simulator.prior, fresh.theta, pulled, seeded(6))["average of slope"]
    assert wrong.p_value < 1e-4
    none = averages(simulator.prior, torch.full_like(fresh.theta, math.nan), draws, seeded(6))["average of slope"]
    assert (none.rows, none.p_value) == (0, 1.0)
    assert none.bound > 1  # and so nothing passes


class Rare(Exact):
    """Of each twenty draws one has a slope; slopes are N(0, 1), as those of the truths are, which all have one."""

    def truth(self, generator: torch.Generator) -> torch.Tensor:
        return torch.cat([torch.ones(ROWS, 1), torch.randn(ROWS, 2, generator=generator)], dim=1)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> torch.Tensor:
        there = torch.rand(n, len(x["x"]), generator=generator) < 0.05
        slope = torch.where(there, torch.randn(there.shape, generator=generator), math.nan)
        return torch.stack([there.float(), torch.randn(there.shape, generator=generator), slope], dim=-1)


def test_spans_hold_what_they_should(simulator: Nested, fresh: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing, "SPAN", 199)
    monkeypatch.setattr(existing, "TAIL", 0.99)
    held = outside_span(Exact(simulator), fresh, seeded(7))
    assert torch.equal(held[:, 2] < 0, fresh.theta[:, 0] == 0)
    for d in (1, 2):  # binomial, 4 sds: false alarms 1e-4
        known = held[held[:, d] >= 0, d].double()
        assert abs(float(known.mean()) - 0.01) < 4 * math.sqrt(0.01 * 0.99 / len(known))
    rarely = Rare(simulator)
    few = outside_span(rarely, Batch(rarely.truth(seeded(8)), {"x": torch.zeros(ROWS, 6)}), seeded(9))[:, 2].double()
    assert abs(float(few.mean()) - 0.01) < 4 * math.sqrt(0.01 * 0.99 / ROWS)
    narrow = outside_span(Exact(simulator, width=0.7), fresh, seeded(7))
    assert float((narrow[:, 2] > 0).sum()) > 2 * float((held[:, 2] > 0).sum())
