"""What is said of errors of scores that are added up."""

from __future__ import annotations

import math

import pytest

from sciinf.core import Level
from sciinf.diagnostics.composed import check_composed


@pytest.mark.parametrize(
    ("shift", "chance", "level"),
    [
        (None, 0.0, Level.UNKNOWN),
        (math.nan, 0.1, Level.UNKNOWN),
        (0.05, 0.04, Level.GOOD),
        (0.25, 0.05, Level.CAUTION),
        (0.6, 0.1, Level.ALARM),
        (0.4, 0.35, Level.UNKNOWN),  # by chance alone this is as likely as one standard error
        (0.05, 0.3, Level.UNKNOWN),  # and so many rows would not see a shift that matters
    ],
)
def test_a_shift_is_told_beyond_two_chance_errors_of_its_square(shift, chance, level):
    assert check_composed(shift, chance, 10).level == level
