"""A second network confirms an answer, or does not."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sample_run import make_calibration

from sciinf.core import Check
from sciinf.trust.here import NAME, doubted
from sciinf.trust.right import RIGHT
from sciinf.trust.second import compared, unconfirmed, vouched

UNSEEN = Check(NAME, "good", "no error seen at this observation: middles to 0.1 sds, widths to 9% (2,000)")


def test_only_a_second_network_makes_no_error_seen_a_right_answer():
    """An sd was 1.13 times too large, and lines in the statistics saw nothing of it."""
    assert unconfirmed(UNSEEN)
    told = compared(UNSEEN, (0.04, 0.02), 5_000)
    assert not unconfirmed(told)
    assert not doubted(told)
    assert told.verdict == (
        "right at this observation: middles to 0.1 sds, widths to 9% (2,000); a second network, trained on 5,000 "
        "simulations around it, differs by little: middles by up to 0.04 sds, widths by up to 2.0%"
    )


@pytest.mark.parametrize("differs", [(0.12, 0.0), (0.0, 0.08), (math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0)])
def test_an_answer_that_it_does_not_give_is_refined(differs):
    told = compared(UNSEEN, differs, 5_000)
    assert doubted(told)
    assert "a second network, trained on 5,000 simulations around it, differs: middles by up to" in told.verdict
    assert "infer --refine auto" in told.verdict


@pytest.mark.parametrize(("state", "verdict"), [("not passed", "no error seen"), ("passed", "right"), (None, "right")])
def test_nothing_is_called_right_of_a_network_that_is_wrong_on_average(state, verdict):
    others = Check("residuals", "good", "the model reproduces the data")
    right = Check(NAME, "good", f"{RIGHT}: middles to 0.1 sds")
    calibration = state and replace(
        make_calibration(SimpleNamespace(names=("a",)), torch.Generator().manual_seed(0)), state=state
    )
    more = "; it is not called right, for the network is wrong on average" if state == "not passed" else ""
    assert vouched((others, right), calibration) == (
        others,
        replace(right, verdict=f"{verdict} at this observation: middles to 0.1 sds{more}"),
    )
