"""What lines in statistics of the data tell of an error at the observation."""

from __future__ import annotations

import torch

from sciinf.diagnostics import here


def lines(*, slope, rows=2_000, columns=50, away=0.0, seed=0):
    """Numbers of mean .1 + slope u . s at statistics s, noise 1, and the statistics about an observation so far out."""
    generator = torch.Generator().manual_seed(seed)
    s, noise, u = (
        torch.randn(*size, generator=generator).double() for size in ((rows, columns), (rows, 1), (columns,))
    )
    u = u / u.norm()
    return 0.1 + slope * (s @ u)[:, None] + noise, s - away * u


def test_where_statistics_tell_nothing_the_mean_is_taken_and_else_lines_lead_to_the_observation():
    flat = [here._at_observation(*lines(slope=0.0, away=3.0, seed=seed)) for seed in range(20)]
    assert all(abs(float(found) - 0.1) < 0.1 for found, _ in flat)
    assert float(torch.stack([error for _, error in flat]).mean()) < 1.7 / 2_000**0.5
    steep = [here._at_observation(*lines(slope=0.5, away=2.0, seed=seed)) for seed in range(20)]
    assert all(0.03 < float(error) < 0.12 for _, error in steep)
    assert abs(float(torch.stack([found for found, _ in steep]).mean()) - 1.1) < 0.12, "drawn by a tenth to the mean"


def test_an_error_that_one_of_many_statistics_carries_is_not_spread_over_all():
    """A slope of .12 along one of fifty, along which the observation lies 2.5 sds out; all alike find a third."""
    found = []
    for seed in range(20):
        y, design = lines(slope=0.0, seed=seed)
        out = (
            torch.randn(50, generator=torch.Generator().manual_seed(seed))
            .double()
            .index_fill(0, torch.tensor([3]), 2.5)
        )
        found.append(float(here._at_observation(y + 0.12 * design[:, 3:4], design - out)[0]))
    assert sum(found) / 20 > 0.1 + 0.2, "0.1 and 0.12 x 2.5"
