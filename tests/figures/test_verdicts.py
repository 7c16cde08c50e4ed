"""The band of verdicts: green only when everything that was checked passed, and checked it was."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciinf.core.verdicts import NOT_CALIBRATED, Calibration
from sciinf.figures.run_folder import Run
from sciinf.figures.verdicts import verdict_band


def calibration(*, state: Any = "passed", of: str = "amortised", cautious: bool = False) -> Calibration:
    none, ranks = np.array([]), np.zeros((100, 1), int)
    reasons = ("all agree" if state == "passed" else "coverage is off by 10.0%",)
    return Calibration(("a",), ranks, 9, none, none, none, {}, {}, of, "f", "s", 0, state, reasons, cautious)


def band(found: Calibration | None, fit: str = "f", **answer: Any) -> str:
    missing = {"calibration": "The posterior has not been checked.", "answer": "No observation yet."}
    run = Run(Path("run"), answer, None, (), found, {"digest": fit}, {}, {}, {}, missing)
    return html.unescape(re.sub(r"<[^>]*>", " ", verdict_band(run)))


def trust(level: str, p: float | None = 0.4) -> dict[str, Any]:
    return {"p_value": p, "verdict": "it fits", "level": level}


def test_all_green_only_if_all_passed():
    text = band(calibration(), trust=trust("good"), pareto_k=0.2, ess=5000.0, draws=10_000)
    assert "All checks passed" in text
    assert "All agree." in text
    assert "It fits." in text
    assert "5,000 from 10,000" in text


@pytest.mark.parametrize(
    ("found", "answer", "headline", "state"),
    [
        (calibration(state="not passed"), {"trust": trust("good")}, "Do not rely on this answer", "Not passed"),
        (calibration(state="cannot tell"), {"trust": trust("good")}, "Read this answer with care", "Cannot tell"),
        (calibration(state="not passed", cautious=True), {"trust": trust("good")}, "with care", "too wide"),
        (calibration(), {"trust": trust("alarm", 0.009)}, "Do not rely on this answer", "Unlike the simulations"),
        (calibration(), {"trust": trust("unusual", 0.03)}, "Read this answer with care", "Unusual"),
        (calibration(), {"trust": trust("unknown", None)}, "Read this answer with care", "Not known"),
        (calibration(), {"trust": trust("unknown", 0.1)}, "Read this answer with care", "Not known"),
        (calibration(), {"trust": {"p_value": 0.4, "verdict": "it fits"}}, "Read this answer with care", "Not known"),
        (calibration(), {}, "Read this posterior with care", "None yet"),
        (None, {"trust": trust("good")}, "Read this answer with care", "Not checked"),
        (calibration(), {"trust": trust("good"), "pareto_k": 0.9, "ess": 900.0}, "Do not rely", "Unreliable"),
        (calibration(), {"trust": trust("good"), "pareto_k": 0.3, "ess": 50.0}, "with care", "Few effective draws"),
    ],
)
def test_one_failed_or_missing_check_is_enough(found, answer, headline, state):
    text = band(found, **answer)
    assert "All checks passed" not in text
    assert headline in text
    assert state in text


def test_a_calibration_of_another_fit_does_not_count():
    text = band(calibration(), fit="g", trust=trust("good"))
    assert "Of another fit" in text
    assert "All checks passed" not in text
    assert "All checks passed" in band(calibration(of="ensemble of 3"), fit="g", trust=trust("good"))


def test_an_unchecked_posterior_is_no_green_one():
    said = {"passed": False, "reasons": [NOT_CALIBRATED]}
    assert "The posterior has not been checked." in band(None, trust=trust("good"), calibration=said)


def test_without_its_file_the_answers_word_on_calibration_is_passed_on():
    said = {"passed": False, "reasons": ["coverage is off by 10.0%"], "of": "ensemble of 3"}
    text = band(None, trust=trust("good"), calibration=said)
    assert "Not passed" in text
    assert "Coverage is off by 10.0%." in text
    assert "Checked: the ensemble of 3 posterior. The calibration itself is not in this folder" in text


def test_the_headline_judges_the_corrected_answer_and_not_the_network_it_began_from():
    answer = {"trust": trust("good"), "pareto_k": 0.2, "ess": 5000.0, "draws": 10_000}
    text = band(calibration(state="not passed"), **answer)
    assert "All checks passed: the likelihood corrected the posterior" in text
    assert "Not passed" in text  # said, in a card that does not count
    assert "so it does not judge this answer" in text
    assert "Do not rely" in band(calibration(state="not passed"), **{**answer, "pareto_k": 0.9})


def test_further_findings_are_lights_of_their_own():
    found = {"name": "failures", "level": "alarm", "verdict": "the prior is cut off where a > 3"}
    text = band(calibration(), trust=trust("good"), checks=[found])
    assert "Do not rely on this answer as it stands: see failures." in text
    assert "The prior is cut off where a > 3." in text
    assert "All checks passed" in band(calibration(), trust=trust("good"), checks=[{**found, "level": "good"}])
