"""How many simulations refine an answer."""

from __future__ import annotations

import pytest

from sciinf.commands.refine import sizes


@pytest.mark.parametrize(
    ("n", "planned"),
    [(500, (500, 500, 500)), (700, (500, 500, 1_000)), (1_499, (749, 749, 1_498, 1_501)),
     (20_000, (10_000, 10_000, 20_000, 20_000))],
)  # fmt: skip
def test_rounds_double_the_simulations_up_to_three_runs_in_all(n, planned):
    assert sizes(n) == planned
    assert sum(planned) <= 3 * n
    assert all(new <= sum(planned[:k]) for k, new in enumerate(planned) if k)
