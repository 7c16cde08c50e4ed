"""Sums over all ways in which a series falls into segments, against every way by itself."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sciinf.networks import segmentations
from sciinf.networks.kernels.library import without_loops

STEPS, LAWS, MOST = 5, 3, 3
CELLS = torch.tensor([0.1, 0.3, 0.0, 0.2, 0.25, 0.15], dtype=torch.float64)


def problem(rows: int = 2):
    generator = torch.Generator().manual_seed(4)
    items = 1.5 * torch.randn(rows, STEPS, LAWS, generator=generator, dtype=torch.float64)
    return items, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log(), segmentations.odds(CELLS, MOST)


def every_way(items, log_weight, changes):
    """Evidence, (row,), and that of each cell for each change in order, by cells of independent changes."""
    total, by_cells = torch.zeros(len(items)).double(), {}
    for cells in itertools.product(range(STEPS + 1), repeat=changes):
        ordered = tuple(sorted(cells))
        found = torch.stack([CELLS[cell] for cell in cells]).prod() if cells else torch.ones(()).double()
        for a, b in itertools.pairwise([0, *ordered, STEPS]):
            found = found * (log_weight + items[:, a:b].sum(1)).logsumexp(-1).exp()
        total = total + found
        by_cells[ordered] = by_cells.get(ordered, 0.0) + found
    return total, by_cells


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # loops, and torch's operations
@pytest.mark.parametrize("changes", range(MOST + 1))
def test_the_evidence_is_the_sum_over_all_ways(changes, dtype):
    items, log_weight, log_odds = problem()
    found = segmentations.evidence(items.to(dtype), log_weight.to(dtype), log_odds)[:, changes].double()
    right = every_way(items, log_weight, changes)[0].log()
    torch.testing.assert_close(found, right, atol=1e-5 if dtype == torch.float32 else 1e-10, rtol=0)


def test_loops_and_torch_have_the_same_gradients():
    items, log_weight, log_odds = (one.float() for one in problem(7))
    slopes = []
    for off in (False, True):
        given = [one.clone().requires_grad_() for one in (items, log_weight)]
        if off:
            with without_loops():
                found = segmentations.evidence(*given, log_odds.double())
        else:
            found = segmentations.evidence(*given, log_odds.double())
        slopes.append(torch.autograd.grad((found * torch.arange(1.0, 5.0)).sin().sum(), given))
    for loop, plain in zip(*slopes, strict=True):
        torch.testing.assert_close(loop, plain, atol=2e-5, rtol=1e-4)


def test_members_of_an_ensemble_are_found_together():
    items, log_weight, log_odds = problem(3)
    items, weights = items.float(), torch.stack([log_weight, log_weight.flip(0)]).float()

    def total(weight):
        return segmentations.evidence(items, weight, log_odds).sum()

    found = torch.func.vmap(torch.func.grad(total))(weights)
    for k in range(2):
        torch.testing.assert_close(found[k], torch.func.grad(total)(weights[k]))


def test_series_that_one_law_makes_all_but_impossible_stay_finite():
    items = torch.zeros(1, 200, 2)
    items[..., 0] = -200.0  # a sum of -40,000 beside 0
    found = segmentations.evidence(items, torch.tensor([0.5, 0.5]).log(), segmentations.odds(torch.ones(201) / 201, 2))
    torch.testing.assert_close(found[:, 0], torch.tensor([math.log(0.5)]), atol=1e-4, rtol=0)
    assert torch.isfinite(found).all()


def test_cells_are_drawn_from_the_posterior():
    """Chi-squared of all ways to place two changes, by Wilson and Hilferty; false alarms: 1 in 10,000 for each."""
    items, log_weight, log_odds = problem()
    messages = segmentations.backward_messages(items, log_weight, log_odds)
    n, generator = 20_000, torch.Generator().manual_seed(1)
    cells = segmentations.draw(messages, log_weight, log_odds, torch.full((2 * n,), 2), generator)[:, :2]
    total, by_cells = every_way(items, log_weight, 2)
    for row in range(2):
        drawn, missed = cells[row::2], 0.0
        possible = {way: float(one[row] / total[row]) for way, one in by_cells.items() if float(one[row]) > 0}
        for way, p in possible.items():
            seen = int((drawn == torch.tensor(way)).all(-1).sum())
            missed += (seen - n * p) ** 2 / (n * p)
        freedom = len(possible) - 1
        z = ((missed / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))
        assert z < 3.72


def test_draws_have_as_many_changes_as_was_asked_for():
    items, log_weight, log_odds = problem()
    messages = segmentations.backward_messages(items, log_weight, log_odds)
    wanted = torch.tensor([0, 1, 2, 3, 3, 0])
    cells = segmentations.draw(messages, log_weight, log_odds, wanted, torch.Generator().manual_seed(0))
    # those beyond the last change are at the end, where the searched numbers of changes never come
    assert ((cells <= STEPS).sum(-1) >= wanted).all()
    assert (cells.diff(dim=-1) >= 0).all()
