"""A second network confirms an answer, or does not."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sample_run import make_calibration

from sciinf.core import Finding
from sciinf.core.findings import Evidence, Level
from sciinf.diagnostics.here import Local, doubted, local_finding
from sciinf.diagnostics.right import Kind, local_check
from sciinf.diagnostics.second import compared, decides, undecided, vouched

UNSEEN = local_check(Kind.UNSEEN, "centres within 0.1 sds, widths within 9% (2,000)")
HINT = local_check(Kind.LOST, "the network leaves part of the data on mu unused (3% of its error variance) (2,000)")
FEW = local_check(Kind.UNTOLD, "centres within 0.2 sds, widths within 14% (2,000)")


def test_only_a_second_network_makes_no_error_seen_a_right_answer():
    """An sd was 1.13 times too large, and lines in the statistics saw nothing of it."""
    assert (UNSEEN.level, UNSEEN.evidence) == ("good", Evidence.CHECK)
    told = compared(UNSEEN, (0.04, 0.02), 5_000)
    assert (told.kind, told.level, told.evidence) == (Kind.RIGHT, "good", Evidence.NETWORK)
    assert not doubted(told)
    assert told.words == (
        "right at this observation: centres within 0.1 sds, widths within 9% (2,000); a second network, trained on "
        "5,000 simulations around it, differs by little: centres by up to 0.04 sds, widths by up to 2.02%"
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
        assert told.kind == (Kind.HINTED if level == "caution" else Kind.UNSETTLED)
        assert (told.evidence, told.figures["second"]) == (Evidence.CHECK, True)
        assert "a second network, trained on 5,000 simulations around it, differs: centres by up to" in told.words
        assert "infer --refine auto" in told.words


@pytest.mark.parametrize(("check", "left"), [(HINT, "unknown"), (FEW, "unknown"), (UNSEEN, "good")])
def test_hints_and_too_few_simulations_end_with_an_answer_that_has_neither(check, left):
    """Both networks see the data through a summary of the same kind: what that loses, they lose alike."""
    assert undecided(check)
    told = compared(check, (0.04, 0.02), 5_000, Level.GOOD)
    assert (told.level, undecided(told), doubted(told)) == ("good", False, False)
    assert (told.kind, told.evidence) == (Kind.RIGHT, Evidence.NETWORK)
    assert check.figures["details"] in told.words
    assert "simulations around it, differs by little: centres by up to 0.04 sds" in told.words
    for own, level in ((Level.UNKNOWN, left), (Level.CAUTION, "caution"), (Level.ALARM, "caution")):
        told = compared(check, (0.04, 0.02), 5_000, own)
        assert (told.level, undecided(told), doubted(told)) == (level, False, level != "good"), own
        assert ", but its own check" in told.words
    assert [decides(check, differs, None) for differs in ((0.04, 0.02), (0.2, 0.0))] == [check is UNSEEN, True]
    assert decides(check, (0.04, 0.02), Level.UNKNOWN)


@pytest.mark.parametrize(("heavy", "unused", "asked"), [(1.0, 0.03, True), (1.2, 0.03, False), (1.2, 0.0, False)])
def test_no_second_network_excuses_draws_far_out(heavy, unused, asked):
    """One draw in a thousand made an sd 1.15 times too large, and passed for chance where two sds were compared."""
    one = torch.ones(1, dtype=torch.float64)
    found = Local(0 * one, 0.03 * one, one, 0.02 * one, unused * one, 0 * one, 2_000, heavy * one)
    check = local_finding(found, ("a",))
    assert (check.level, doubted(check)) == ("caution", True)
    assert undecided(check) == asked


@pytest.mark.parametrize("kind", sorted({*Kind} - {Kind.UNSEEN, Kind.LOST, Kind.UNTOLD}))
def test_what_is_not_right_or_is_not_asked_is_for_no_second_network_to_tell(kind):
    assert not undecided(local_check(kind, "mu"))


def test_no_other_check_and_none_that_a_second_network_told_of_is_asked_about():
    assert not undecided(replace(HINT, name="tails"))
    assert not undecided(local_check(Kind.LOST, "mu", second=True))


def test_rewording_a_check_changes_no_decision():
    other = replace(UNSEEN, words="nothing is the matter here")
    assert undecided(other)
    assert compared(other, (0.04, 0.02), 5_000) == compared(UNSEEN, (0.04, 0.02), 5_000)


STATES = ["not passed", "passed", "cannot tell", None]


def calibration(state):
    found = make_calibration(SimpleNamespace(names=("a",)), torch.Generator().manual_seed(0))
    return state and replace(found, state=state)


@pytest.mark.parametrize("state", STATES)
def test_no_error_seen_is_not_good_of_a_network_that_is_wrong_on_average(state):
    """ "good: no error seen" stood beside a calibration that did not pass, and sds .86 times as large."""
    others = (Finding("residuals", "good", "the model reproduces the data"), HINT)
    found = vouched((*others, UNSEEN), calibration(state))
    assert found[:2] == others
    if state != "not passed":
        assert found[2] is UNSEEN
        return
    assert (found[2].kind, found[2].level, found[2].evidence) == (Kind.UNSETTLED, "caution", Evidence.CHECK)
    assert "wrong on average" in found[2].words
    assert UNSEEN.figures["details"] in found[2].words
    assert doubted(found[2])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("second", [False, True])
def test_an_average_does_not_speak_against_a_second_network_or_rounds(state, second):
    """Both are evidence of this observation."""
    right = local_check(Kind.RIGHT, "centres within 0.1 sds", second=second)
    assert vouched((right,), calibration(state)) == (right,)
