"""Numbers of an observation beyond a limit of the simulated data, and limits that a file has rounded."""

from __future__ import annotations

import re

import pytest
import torch
from torch import distributions as td

from sciinf import Observable, Prior, Simulator, query
from sciinf.core import Draws, Level, Posterior
from sciinf.diagnostics.limits import check_limits

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
        (seen(1.256, 1.9, 1.7), None, ""),  # rounded to the outside, where it counts as at the limit
        (seen(1.25642, 1.9, 1.7), "caution", r"c at sample 0 is 1\.25642 mg/L, the limit 1\.256419"),
        (seen(1.256419, 1.9, 1.7), None, ""),  # the same number in single precision
        (seen(1.26, 1.9, 1.7), None, ""),
        (seen(1.3, 1.9, 1.1), None, ""),  # smaller than all, of which no value comes again
    ],
)
def test_numbers_beyond_limits_and_rounded_limits_are_named(x, level, words):
    found = check_limits(SPECS, x, LIMITED)
    assert [(check.name, check.level) for check in found] == ([("limits", level)] if level else [])
    assert all(re.search(words, check.words) for check in found)


COUNTS = torch.poisson(3 * ROWS, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("rows", "x", "level"),
    [
        (COUNTS, seen(4.0, 7.5, 5.0), "alarm"),
        (COUNTS, seen(4.0, 7.0, 5.0), None),
        (COUNTS, seen(4.0, 7.000002, 5.0), None),  # of another unit
        (COUNTS + (torch.arange(2_000) == 7)[:, None] * 0.5, seen(4.0, 7.5, 5.0), None),  # one simulation has fractions
        (COUNTS[:50], seen(4.0, 7.5, 5.0), "caution"),
        (COUNTS + 0.5, seen(4.0, 7.5, 5.0), None),
    ],
    ids=["fraction", "whole", "rounded", "seldom", "few", "halves"],
)
def test_a_fraction_among_counts_is_named(rows, x, level):
    """Where the model makes the data, an observation alone with fractions among n has a chance of 1 / (n + 1)."""
    found = check_limits(SPECS, x, {"c": rows})
    assert [(one.name, one.level) for one in found] == ([("limits", level)] if level else [])
    assert all("c at sample 1 is 7.5 mg/L, and" in one.words for one in found)


def test_a_fraction_that_a_mask_leaves_out_is_none():
    specs, mask = SPECS | {"c_mask": Observable((3,), dtype="bool")}, torch.ones(2_000, 3, dtype=torch.bool)
    there = torch.tensor([True, False, True])
    assert check_limits(specs, seen(4.0, 7.5, 5.0) | {"c_mask": there}, {"c": COUNTS, "c_mask": mask}) == ()
    assert check_limits(specs, seen(4.0, 7.5, 5.0) | {"c_mask": ~there}, {"c": COUNTS, "c_mask": mask})


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
    assert check_limits(SPECS, {"c": rows.amin(0) - 1}, {"c": rows[:0]}) == ()


def test_missing_numbers_have_no_limit():
    """They are zero where a mask leaves them out, in the simulations and in the observation."""
    mask = torch.rand(2_000, 3, generator=torch.Generator().manual_seed(2)) < 0.8
    specs = SPECS | {"c_mask": Observable((3,), dtype="bool")}
    rows, x = {"c": ROWS * mask, "c_mask": mask}, {"c": torch.tensor([-1.0, 1.9, 1.7])}
    assert check_limits(specs, x | {"c_mask": torch.tensor([False, True, True])}, rows) == ()
    assert check_limits(specs, x | {"c_mask": torch.tensor([True, True, True])}, rows) == ()
    assert check_limits(SPECS, x, {"c": rows["c"]})[0].level == "alarm"


@pytest.mark.parametrize(
    ("law", "numbers", "rows"),
    [
        (lambda g, n, k: (torch.rand(n, k, generator=g) < 1 / 400) * (1 + torch.rand(n, k, generator=g)), 256, 400),
        (lambda g, n, k: (torch.rand(n, k, generator=g) < 0.001) * torch.randn(n, k, generator=g), 1_024, 500),
        (lambda g, n, k: (2 * (0.4 + 0.12 * torch.randn(n, k, generator=g))).round() / 2, 40, 2_000),
        (lambda g, n, k: (torch.randn(n, k, generator=g) - 2.5).clamp_min(-2.0), 48, 400),
        (lambda g, n, k: torch.full((n, k), 1 / 3) * (1 - 1e-4 * (torch.arange(n) == 0))[:, None], 4, 2_000),
    ],
    ids=["sparse", "intermittent", "rounded", "mostly at a limit", "constant but for the observation"],
)
def test_data_of_the_model_itself_are_not_beyond(law, numbers, rows):
    """Twenty observations of each."""
    for seed in range(20):
        x = law(torch.Generator().manual_seed(seed), rows + 1, numbers)
        assert check_limits({"x": Observable((numbers,))}, {"x": x[0]}, {"x": x[1:]}) == ()


def test_many_limits_are_beyond_by_chance_sooner():
    """Of n limits in 2,000 rows the p-value is n / 2,001."""
    rows = torch.randn(2_000, 40, generator=torch.Generator().manual_seed(0)).clamp_min(-1.0)
    levels = []
    for spread in (0.0, 1e-3):
        shift = spread * torch.arange(40)
        (found,) = check_limits({"x": Observable((40,))}, {"x": shift - 1.5}, {"x": rows + shift})
        levels.append(found.level)
    assert levels == ["alarm", "caution"]


class Clipped(Simulator):
    """Five readings of a mean, of which none is below -0.5, and one observable more."""

    name = "clipped"
    prior = Prior(mean=td.Normal(0.0, 1.0))
    observables = {"x": Observable((5,)), "more": Observable((1,))}

    def __call__(self, theta, *, generator):
        x = theta + torch.randn(len(theta), 5, generator=generator)
        return {"x": x.clamp_min(-0.5), "more": theta}


class Around(Posterior):
    """Of x alone: something near its posterior."""

    prior, observables = Clipped.prior, {"x": Observable((5,))}
    name, digest, trained_on = "around", "around", frozenset()

    def features(self, x):
        return x["x"].mean(1, keepdim=True)

    def draw_batched(self, x, n, *, generator):
        mean = 0.8 * self.features(x)
        return mean + 0.4 * torch.randn(n, len(mean), 1, generator=generator)

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def log_prob_batched(self, theta, x):
        raise NotImplementedError


@pytest.mark.parametrize(("first", "level"), [(-0.5, None), (-0.6, "alarm")])
def test_an_answer_says_so(first, level):
    """Of a posterior that was trained on a part of what the simulator gives."""
    answer = query(Around(), {"x": torch.tensor([first, 0.3, -0.2, 0.9, 0.1])}, simulator=Clipped(), draws=1_000)
    assert {check.name: check.level for check in answer.checks}.get("limits") == level


def test_all_that_lies_beyond_is_counted():
    found = check_limits(
        {"c": Observable((9,))}, {"c": torch.full((1, 9), 0.5)}, {"c": ROWS.repeat(1, 3).clamp_min(LIMIT)}
    )
    assert "c at [2] is 0.5" in found[0].words
    assert "and 6 more" in found[0].words


def test_counts_with_a_common_divisor_are_named():
    """As of a table that was added to itself; by chance 1 in 300 at most, where 299 simulations have none."""
    specs, generator = {"n": Observable((12,), dims=("item",))}, torch.Generator().manual_seed(0)
    rows = {"n": torch.poisson(torch.full((300, 12), 20.0), generator=generator)}
    (found,) = check_limits(specs, {"n": 2 * rows["n"][0]}, rows)
    assert (found.level, "all 12 counts of n above 0 are multiples of 2" in found.words) == (Level.ALARM, True)
    assert check_limits(specs, {"n": rows["n"][0]}, rows) == ()
    few = torch.zeros(12).index_fill(0, torch.tensor([0, 3]), 2.0)
    assert check_limits(specs, {"n": few}, {"n": torch.where(rows["n"] > 24, 2.0, 0.0)}) == ()
    assert check_limits(specs, {"n": 2 * rows["n"][0]}, {"n": 2 * rows["n"]}) == (), "pairs are simulated"


def test_a_divisor_that_the_model_has_too_is_no_fault():
    """Counts of a converter whose gain differs from one simulation to the next; 2 of 100 are expected below .01."""
    generator, specs = torch.Generator().manual_seed(0), {"n": Observable((12,), dims=("item",))}
    gain = torch.randint(1, 500, (500, 1), generator=generator)
    rows = (gain * torch.poisson(torch.full((500, 12), 20.0), generator=generator)).float()
    named = [check_limits(specs, {"n": rows[k]}, {"n": rows[100:]}) for k in range(100)]
    assert sum(map(bool, named)) <= 5
