"""Segments: sums over all places of changes, and where they are, against sums over every place by itself."""

from __future__ import annotations

import itertools

import pytest
import torch

from sciinf.core import Observable
from sciinf.summaries.segments import Segments

SPEC = Observable((12,), dims=("time",))


def network(cells: int = 6, changes: int = 3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Segments(changes=changes, cells=cells, features=4, heads=2).build(SPEC, masked=False).double().eval()


def pieces(cells: int = 6):
    """The network's scores of three series, and the paths it finds."""
    made = network(cells)
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = made._scores(made._sums(x[..., None], torch.ones_like(x[..., None])))
    forward, backward, total = made._paths(scores)
    return scores, made._where(forward, backward, torch.zeros(3, cells + 1, 1).double()), total


def all_places(scores, head, changes, cells=6):
    """Log score of every way to place that many changes, and the places."""
    found, places = [], list(itertools.combinations(range(1, cells), changes))
    for cuts in places:
        edges = [0, *cuts, cells]
        found.append(sum(scores[:, head, b, a] for a, b in itertools.pairwise(edges)))
    return torch.stack(found), places


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("changes", [0, 1, 2, 3])
def test_totals_are_sums_over_all_places(head, changes):
    scores, _, total = pieces()
    each, _ = all_places(scores, head, changes)
    torch.testing.assert_close(total[:, head, changes], each.logsumexp(0), atol=1e-8, rtol=1e-8)


def test_where_a_change_is_follows_from_both_ends():
    scores, where, _ = pieces()
    each, places = all_places(scores, 0, 3)
    share = each.softmax(0)
    for i in range(3):
        found = where[:, 7 * (3 + i) :][:, :5] / 4  # behind those of one change and of two, 7 numbers each
        for edge in range(1, 6):
            those = [k for k, cuts in enumerate(places) if cuts[i] == edge]
            torch.testing.assert_close(found[:, edge - 1], share[those].sum(0), atol=1e-8, rtol=0)


def test_series_shorter_than_the_cells_and_too_short_ones():
    assert network(cells=50).cells == 12
    with pytest.raises(ValueError, match="no segments; use MLP"):
        Segments().build(Observable((1,), dims=("time",)), masked=False)
    with pytest.raises(ValueError, match="changes must be at least 1"):
        Segments(changes=0)
