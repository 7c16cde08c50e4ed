"""A second network confirms an answer, or does not."""

from __future__ import annotations

import math

import pytest
import torch
from narrow import Wrong, X

from sciinf.core import Check
from sciinf.trust.here import NAME, doubted
from sciinf.trust.second import compared, difference, unconfirmed

UNSEEN = Check(NAME, "good", "no error seen at this observation: middles to 0.1 sds, widths to 9% (2,000)")


def test_only_a_second_network_makes_no_error_seen_a_right_answer():
    """An sd was 1.13 times too large, and lines in the statistics saw nothing of it."""
    assert unconfirmed(UNSEEN)
    told = compared(UNSEEN, (0.04, 0.02), 5_000)
    assert not unconfirmed(told)
    assert not doubted(told)
    assert told.verdict == (
        "right at this observation: middles to 0.1 sds, widths to 9% (2,000); a second network, trained on 5,000 "
        "simulations around it, differs by little: middles by up to 0.04 sds, widths by up to 2%"
    )


@pytest.mark.parametrize("differs", [(0.12, 0.0), (0.0, 0.08), (math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0)])
def test_an_answer_that_it_does_not_give_is_refined(differs):
    told = compared(UNSEEN, differs, 5_000)
    assert doubted(told)
    assert "a second network, trained on 5,000 simulations around it, differs: middles by up to" in told.verdict
    assert "infer --refine auto" in told.verdict


@pytest.mark.parametrize(("shift", "width"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.2)])
def test_answers_differ_by_what_is_planted(shift, width):
    moved, wider = difference(Wrong(shift, width), Wrong(0.0, 1.0), X)
    assert moved == pytest.approx(shift, abs=0.06)
    assert wider == pytest.approx(math.log(width), abs=0.05)


class Far(Wrong):
    """One draw in a hundred lies eight times as far out."""

    def draw_batched(self, x, n, *, generator):
        theta = super().draw_batched(x, n, generator=generator)
        middle = theta.mean(0, keepdim=True)
        return torch.where((torch.arange(n) % 100 == 0)[:, None, None], middle + 8 * (theta - middle), theta)


def test_an_sd_that_few_draws_make_counts():
    """A first answer had an sd 1.13 times too large, and the width of its middle 68 % was right."""
    assert difference(Far(0.0, 1.0), Wrong(0.0, 1.0), X)[1] > 0.2
