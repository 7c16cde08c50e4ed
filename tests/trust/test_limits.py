"""Numbers of an observation beyond a limit of the simulated data, and limits that a file has rounded."""

from __future__ import annotations

import re

import pytest
import torch

from sciinf import Observable
from sciinf.trust.limits import check_limits

LIMIT = 1.25641898
SPECS = {"c": Observable((3,), "mg/L", dims=("sample",))}
ROWS = torch.rand(2_000, 3, generator=torch.Generator().manual_seed(0)) + 1.25
LIMITED = {"c": torch.cat([ROWS[:, :2].clamp_min(LIMIT), ROWS[:, 2:].clamp_max(2.2)], dim=1)}


def seen(*values):
    return {"c": torch.tensor(values)}


@pytest.mark.parametrize(
    ("x", "level", "words"),
    [
        (seen(1.3, 1.9, 1.7), None, ""),
        (seen(LIMIT, 1.9, 2.2), None, ""),
        (seen(1.3, 0.63, 1.7), "alarm", r"c at sample 1 is 0\.63 mg/L, and 1\d of 2,000 .* 1\.256 .*, none less\."),
        (seen(1.3, 1.9, 2.21), "alarm", r"c at sample 2 is 2\.21 mg/L, and \d+ of 2,000 .* 2\.2 .*, none more\."),
        (seen(1.256, 1.9, 1.7), "caution", r"c at sample 0 is 1\.256 mg/L, the limit 1\.256419"),
        (seen(1.25642, 1.9, 1.7), "caution", r"c at sample 0 is 1\.25642 mg/L, the limit 1\.256419"),
        (seen(1.256419, 1.9, 1.7), None, ""),  # the same number in single precision
        (seen(1.26, 1.9, 1.7), None, ""),
        (seen(1.3, 1.9, 1.1), None, ""),  # smaller than all, of which no value comes again
    ],
)
def test_numbers_beyond_limits_and_rounded_limits_are_named(x, level, words):
    found = check_limits(SPECS, x, LIMITED)
    assert [(check.name, check.level) for check in found] == ([("limits", level)] if level else [])
    assert all(re.search(words, check.verdict) for check in found)


@pytest.mark.parametrize(
    "rows",
    [
        5.0 + (ROWS > 2.2),  # whole, and hardly ever more than 5
        (ROWS * 20).round() / 20,  # rounded, so that all values come again
        ROWS,
    ],
    ids=["whole", "rounded", "plain"],
)
def test_the_smallest_value_alone_is_no_limit(rows):
    assert check_limits(SPECS, {"c": rows.amin(0) - 1}, {"c": rows}) == ()


def test_missing_numbers_have_no_limit():
    """They are zero where a mask leaves them out, in the simulations and in the observation."""
    mask = torch.rand(2_000, 3, generator=torch.Generator().manual_seed(2)) < 0.8
    specs = SPECS | {"c_mask": Observable((3,), dtype="bool")}
    rows, x = {"c": ROWS * mask, "c_mask": mask}, {"c": torch.tensor([-1.0, 1.9, 1.7])}
    assert check_limits(specs, x | {"c_mask": torch.tensor([False, True, True])}, rows) == ()
    assert check_limits(specs, x | {"c_mask": torch.tensor([True, True, True])}, rows) == ()
    assert check_limits(SPECS, x, {"c": rows["c"]})[0].level == "alarm"


def test_all_that_lies_beyond_is_counted():
    found = check_limits(
        {"c": Observable((9,))}, {"c": torch.full((1, 9), 0.5)}, {"c": ROWS.repeat(1, 3).clamp_min(LIMIT)}
    )
    assert "c at [2] is 0.5" in found[0].verdict
    assert "and 6 more" in found[0].verdict
