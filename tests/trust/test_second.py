"""A second network confirms an answer, or does not."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sample_run import make_calibration

from sciinf.core import Finding
from sciinf.trust.here import NAME, Local, doubted, verdict
from sciinf.trust.right import HINTED, RIGHT, UNTOLD
from sciinf.trust.second import compared, decides, unconfirmed, undecided, vouched

UNSEEN = Finding(NAME, "good", "no error seen at this observation: middles to 0.1 sds, widths to 9% (2,000)")
LOST = "the data tell more of mu than the network uses (3% of its error) (2,000)"
HINT = Finding(NAME, "caution", f"{HINTED}: {LOST}")
FEW = Finding(NAME, "unknown", f"{UNTOLD}: middles to 0.2 sds, widths to 14% (2,000)")


def test_only_a_second_network_makes_no_error_seen_a_right_answer():
    """An sd was 1.13 times too large, and lines in the statistics saw nothing of it."""
    assert unconfirmed(UNSEEN)
    told = compared(UNSEEN, (0.04, 0.02), 5_000)
    assert not unconfirmed(told)
    assert not doubted(told)
    assert told.words == (
        "right at this observation: middles to 0.1 sds, widths to 9% (2,000); a second network, trained on 5,000 "
        "simulations around it, differs by little: middles by up to 0.04 sds, widths by up to 2.02%"
    )


@pytest.mark.parametrize(
    ("differs", "level"),
    [
        ((0.12, 0.0), "unknown"), ((0.0, 0.08), "unknown"), ((0.16, 0.0), "caution"), ((0.0, 0.1), "caution"),
        ((math.nan, 0.0), "caution"), ((0.0, math.nan), "caution"), ((math.inf, 0.0), "caution"),
    ],
)  # fmt: skip
def test_an_answer_that_it_does_not_give_is_refined(differs, level):
    """Of 17 answers that differed by .1 to .15 sd, or 7 to 10 % of a width, 15 were right; of 12 beyond that, 5."""
    for check in (UNSEEN, HINT, FEW):
        told = compared(check, differs, 5_000)
        assert (doubted(told), undecided(told), told.level) == (True, False, level)
        assert "a second network, trained on 5,000 simulations around it, differs: middles by up to" in told.words
        assert "infer --refine auto" in told.words


@pytest.mark.parametrize(("check", "left"), [(HINT, "unknown"), (FEW, "unknown"), (UNSEEN, "good")])
def test_hints_and_too_few_simulations_end_with_an_answer_that_has_neither(check, left):
    """Both networks see the data through a summary of the same kind: what that loses, they lose alike."""
    assert undecided(check)
    told = compared(check, (0.04, 0.02), 5_000, "good")
    assert (told.level, undecided(told), doubted(told)) == ("good", False, False)
    assert told.words.startswith(RIGHT)
    assert check.words.split(": ", 1)[1] in told.words
    assert "simulations around it, differs by little: middles by up to 0.04 sds" in told.words
    for own, level in (("unknown", left), ("caution", "caution"), ("alarm", "caution")):
        told = compared(check, (0.04, 0.02), 5_000, own)
        assert (told.level, undecided(told), doubted(told)) == (level, False, level != "good"), own
        assert ", but its own check" in told.words
    assert [decides(check, differs, "") for differs in ((0.04, 0.02), (0.2, 0.0))] == [check is UNSEEN, True]
    assert decides(check, (0.04, 0.02), "unknown")


@pytest.mark.parametrize(("heavy", "unused", "asked"), [(1.0, 0.03, True), (1.2, 0.03, False), (1.2, 0.0, False)])
def test_no_second_network_excuses_draws_far_out(heavy, unused, asked):
    """One draw in a thousand made an sd 1.15 times too large, and passed for chance where two sds were compared."""
    one = torch.ones(1, dtype=torch.float64)
    found = Local(0 * one, 0.03 * one, one, 0.02 * one, unused * one, 0 * one, 2_000, heavy * one)
    check = verdict(found, ("a",))
    assert (check.level, doubted(check)) == ("caution", True)
    assert undecided(check) == asked


def test_what_is_not_right_or_is_not_asked_is_for_no_second_network_to_tell():
    for level, words in (("alarm", "not right at this observation: mu"), ("unknown", "not checked whether it is")):
        assert not undecided(Finding(NAME, level, words))
    assert not undecided(replace(HINT, name="tails"))


@pytest.mark.parametrize("state", ["not passed", "passed", "cannot tell", None])
def test_nothing_is_called_good_of_a_network_that_is_wrong_on_average(state):
    """Of a refined one, "good: no error seen" stood beside NOT PASSED and sds .86 times as large."""
    others = (Finding("residuals", "good", "the model reproduces the data"), HINT)
    right = Finding(NAME, "good", f"{RIGHT}: middles to 0.1 sds")
    calibration = state and replace(
        make_calibration(SimpleNamespace(names=("a",)), torch.Generator().manual_seed(0)), state=state
    )
    words = "cannot be told whether it is right at this observation, for the network is wrong on average: no error seen"
    unknown = Finding(NAME, "unknown", f"{words} at this observation: middles to 0.1 sds")
    found = vouched((*others, right), calibration)
    assert found == (*others, unknown if state == "not passed" else right)
    assert doubted(found[-1]) == (state == "not passed")
