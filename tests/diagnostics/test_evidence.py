"""An evidence says whether simulations confirm its constant."""

from __future__ import annotations

import pytest
from exact_ball import answer_of, findings_of

from sciinf.core import Level, load_simulator
from sciinf.core.findings import CONFIRMED


@pytest.fixture
def ball(root):
    return load_simulator(root / "simulators/linear_gaussian.py")


def test_an_answer_by_a_right_likelihood_has_a_confirmed_evidence(ball):
    answer = answer_of(ball)
    (evidence,) = findings_of(answer, "evidence")
    assert (evidence.kind, evidence.level) == (CONFIRMED, Level.GOOD)
    assert "not confirmed" not in answer.table()


def test_an_evidence_without_its_constant_is_told(ball):
    answer = answer_of(ball, constant=9.2)
    (evidence,) = findings_of(answer, "evidence")
    assert evidence.figures["log_integral"] == pytest.approx(-9.2, abs=0.3)
    assert answer.verdict.level == Level.CAUTION
    assert "its constant is not confirmed" in answer.table()


def test_an_evidence_without_simulations_is_not_confirmed_and_no_worse_an_answer(ball):
    answer = answer_of(ball, simulated=False)
    (evidence,) = findings_of(answer, "evidence")
    assert (evidence.kind, evidence.level) == ("unconfirmed", Level.GOOD)
    assert "its constant is not confirmed" in answer.table()
