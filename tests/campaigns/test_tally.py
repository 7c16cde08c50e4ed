"""Simulators that fail most of the time are refused, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from sciinf.campaigns.tally import Tally, mostly_failing


def refused(rate: float, campaigns: int, rows: int) -> float:
    """The share of campaigns refused that are looked at after every 10 rows."""
    failed = np.random.default_rng(0).binomial(10, rate, (campaigns, rows // 10)).cumsum(1)
    totals = 10 * np.arange(1, rows // 10 + 1)
    return np.mean([any(mostly_failing(int(f), int(n)) for f, n in zip(row, totals, strict=True)) for row in failed])


def test_a_simulator_is_refused_when_it_clearly_fails_in_more_than_half():
    """At 45 % a fair look at 50 rows refused one in five. Four sds: at most 1e-6 of campaigns at 45 % are refused."""
    assert refused(0.45, 300, 1000) == 0
    assert refused(0.75, 300, 1000) == 1


def test_a_tally_says_why():
    tally = Tally("line")
    tally.add(50, 30, ["no current"] * 30)
    with pytest.raises(ValueError, match="80 of 100 simulations of 'line' failed.*no current"):
        tally.add(50, 50, ["no current"] * 50)
