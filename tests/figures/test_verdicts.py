"""The band of verdicts: green only when everything that was checked passed, and checked it was."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciinf.core.records import NOT_CALIBRATED, Calibration
from sciinf.figures.checked import Checked
from sciinf.figures.checks import checks_part
from sciinf.figures.first_screen import about, verdict_part, verdicts_part
from sciinf.figures.run_folder import Run
from sciinf.figures.verdicts import SYMBOLS, brief, verdict_of
from sciinf.trust.here import NAME
from sciinf.trust.right import RIGHT, UNSEEN


def calibration(*, state: Any = "passed", of: str = "amortised", cautious: bool = False) -> Calibration:
    none, ranks = np.array([]), np.arange(100)[:, None] % 10
    reasons = ("all agree" if state == "passed" else "coverage is off by 10.0%",)
    return Calibration(("a",), ranks, 9, none, none, none, {}, {}, of, "f", "s", 0, state, reasons, cautious)


def band(found: Calibration | None, fit: str = "f", **answer: Any) -> str:
    missing = {"calibration": "The posterior has not been checked.", "answer": "No observation yet."}
    run = Run(Path("run"), answer, None, (), found, {"digest": fit}, {}, {}, {}, missing)
    said = verdict_of(run)
    return " ".join(
        html.unescape(re.sub(r"<[^>]*>", " ", verdict_part(run, said) + checks_part(run, said, pictures=False))).split()
    )


def run_of(found: Calibration | None, **answer: Any) -> Run:
    return Run(Path("run"), answer, None, (), found, {"digest": "f"}, {}, {}, {}, {})


def trust(level: str, p: float | None = 0.4) -> dict[str, Any]:
    return {"p_value": p, "verdict": "it fits", "level": level}


def test_all_green_only_if_all_passed():
    text = band(calibration(), trust=trust("good"), pareto_k=0.2, ess=5000.0, draws=10_000)
    assert "All checks that were made passed" in text
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
    assert "passed: the" not in text
    assert headline in text
    assert state in text


def test_the_headline_names_an_error_that_is_dangerous_before_one_that_is_not():
    reasons = (
        "interval of a is too wide (cautious): its 60% holds 75%",
        "coverage is too narrow (dangerous): 65% holds 51%",
    )
    run = run_of(replace(calibration(state="not passed"), reasons=reasons), trust=trust("good"))
    assert verdict_of(run).headline.endswith("not calibrated (coverage is too narrow: 65% holds 51%).")


@pytest.mark.parametrize(
    ("level", "held", "grade"),
    [(0.9, 0.71, "90% intervals of b hold 71%; "), (0.68, 0.5, "68% intervals of b hold 50%; "), (0.9, 0.9, "")],
)
def test_a_failed_calibration_is_graded_by_what_intervals_of_the_answers_level_hold(level, held, grade):
    """Of the parameter whose hold least; and where they hold what they should, the failure alone is said."""
    rng = np.random.default_rng(0)
    inside, exact = np.arange(4000) < held * 4000, rng.integers(0, 1000, 4000)
    off = np.where(inside, 500 + level * (exact - 500), 999 * (exact > 500)).astype(int)
    reasons = (
        "interval of a is too wide (cautious): 60% holds 75%",
        "coverage is too narrow (dangerous): 65% holds 51%",
    )
    found = replace(
        calibration(state="not passed"), names=("a", "b"), ranks=np.stack([exact, off], 1), draws=999, reasons=reasons
    )
    run = run_of(found, trust=trust("good"), parameters={"a": {"level": level, "median": None}})
    said = verdict_of(run)
    assert f"not calibrated ({grade}coverage is too narrow: 65% holds 51%)" in said.headline
    card = said.cards[0]
    assert card.clause.lower() == f"{grade}coverage is too narrow: 65% holds 51%"
    assert len(card.reasons) == 3  # nothing is left out


def test_a_calibration_of_another_fit_does_not_count():
    text = band(calibration(), fit="g", trust=trust("good"))
    assert "Of another fit" in text
    assert "passed: the" not in text
    assert "All checks that were made passed" in band(calibration(of="ensemble of 3"), fit="g", trust=trust("good"))


def test_a_calibration_made_anew_is_not_that_of_the_answer():
    """As where the run was trained on more, for another observation, and this answer is still of the first network."""
    said = {"state": "cannot tell", "passed": False, "reasons": ["too few"], "of": "amortised", "fit": "e"}
    text = band(calibration(), trust=trust("good"), calibration=said)
    assert "Read this answer with care: calibrated anew since this answer" in text
    wrong = {**said, "state": "not passed"}
    assert "Do not rely" in band(calibration(), trust=trust("good"), calibration=wrong)
    assert "Do not rely" in band(calibration(state="not passed"), trust=trust("good"), calibration=said)
    same = {**said, "state": "passed", "passed": True, "reasons": ["all agree"]}
    assert "with care" in band(calibration(), trust=trust("good"), calibration=same)
    assert "All checks that were made passed" in band(
        calibration(), trust=trust("good"), calibration={**same, "fit": "f"}
    )
    del same["fit"]  # of an earlier version
    assert "All checks that were made passed" in band(calibration(), trust=trust("good"), calibration=same)


def test_a_damaged_calibration_is_no_green_one(tmp_path):
    said = {"state": "passed", "passed": True, "reasons": ["all agree"], "of": "amortised"}
    missing = {"calibration": "calibration.json could not be read: it is empty"}
    run = Run(tmp_path, {"trust": trust("good"), "calibration": said}, None, (), None, {}, {}, {}, {}, missing)
    assert verdict_of(run).cards[0].colour == "green"  # an answer that went to a folder of its own
    (tmp_path / "calibration.json").write_text("")
    assert verdict_of(run).headline == "Read this answer with care: calibration cannot be read."


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
    assert "All checks that were made passed: the likelihood corrected the posterior" in text
    assert "Not passed" in text  # said, in a card that does not count
    assert "so it does not judge this answer" in text
    assert "Do not rely" in band(calibration(state="not passed"), **{**answer, "pareto_k": 0.9})


@pytest.mark.parametrize("words", ["1 / P(success)", "P(success)"])
def test_weights_other_than_the_likelihood_do_not_mend_a_network(words):
    answer = {"trust": trust("good"), "pareto_k": 0.2, "ess": 5000.0, "draws": 10_000}
    answer["posterior"] = f"amortised, weighted by {words}"
    assert "Do not rely on this answer as it stands: not calibrated" in band(calibration(state="not passed"), **answer)
    assert "All checks that were made passed: the posterior is calibrated" in band(calibration(), **answer)
    answer["posterior"] = f"amortised, reweighted by the likelihood, weighted by {words}"
    assert "the likelihood corrected the posterior" in band(calibration(state="not passed"), **answer)


def test_what_was_not_looked_at_is_said_beside_what_passed():
    good = {n: {"name": n, "level": "good", "verdict": "fine"} for n in ("predictive", "prior bounds")}
    whole = verdict_of(run_of(calibration(), trust=trust("good"), checks=list(good.values())))
    assert whole.headline.startswith("All checks passed: the posterior is calibrated")
    assert whole.headline.endswith("the simulations behind it.")
    assert whole.state == "all checks passed"
    for name, lacks in (("predictive", "prior not looked at"), ("prior bounds", "data not compared with predictions")):
        part = verdict_of(run_of(calibration(), trust=trust("good"), checks=[good[name]]))
        assert part.headline.startswith("All checks that were made passed")
        assert part.headline.endswith(f" But {lacks}.")
        assert part.state == "all checks made passed"
        run = run_of(calibration(), trust=trust("good"))
        assert "1 of 1 answers passed all checks that were made." in verdicts_part({"a": run}, {"a": part})


def test_among_several_answers_those_that_were_refined_are_named():
    """ "Read with care a, c" stood over answers that had good ones in reports of their own."""
    runs = {name: run_of(calibration(), trust=trust("good")) for name in "ab"}
    runs["c"] = run_of(calibration(), trust=trust("good"), refined="refined/c/answers/c")
    verdicts = {name: verdict_of(run) for name, run in runs.items()}
    assert "Refined since, each with a report of its own: c." in verdicts_part(runs, verdicts)
    del runs["c"]
    assert "Refined" not in verdicts_part(runs, {name: verdicts[name] for name in runs})


def test_further_findings_are_lights_of_their_own():
    found = {"name": "failures", "level": "alarm", "verdict": "the prior is cut off where a > 3"}
    text = band(calibration(), trust=trust("good"), checks=[found])
    assert "Do not rely on this answer as it stands: failures: do not rely." in text
    assert "The prior is cut off where a > 3." in text
    assert "All checks that were made passed" in band(
        calibration(), trust=trust("good"), checks=[{**found, "level": "good"}]
    )


@pytest.mark.parametrize(
    "name", ["local check", "tails", "strange data", "predictive", "residuals", "prior bounds", "noise", "new"]
)
@pytest.mark.parametrize("level", ["caution", "alarm", "unknown"])
def test_no_light_is_greener_than_a_check_behind_it(name, level):
    """Whatever the check is called: one of the five lights turns with it, or it is a light of its own."""
    good = [{"name": n, "level": "good", "verdict": "fine"} for n in ("predictive", "prior bounds", "local check")]
    bad = {"name": name, "level": level, "verdict": "it is not so"}
    run = run_of(calibration(), trust=trust("good"), checks=[*good, bad])
    colour = "red" if level == "alarm" else "amber"
    assert [light.colour for light in verdict_of(run).lights].count(colour) == 1
    assert verdict_of(run).colour == colour
    assert verdict_of(run).headline.startswith("Do not rely" if colour == "red" else "Read this answer with care")


def test_without_a_second_network_not_all_checks_were_made():
    """An answer in which no error was seen had an sd 1.13 times too large, beside "All checks passed"."""
    others = [{"name": n, "level": "good", "verdict": "fine"} for n in ("predictive", "prior bounds")]
    unseen = {"name": NAME, "level": "good", "verdict": f"{UNSEEN}: middles to 0.1 sds, widths to 7%"}
    alone = verdict_of(run_of(calibration(), trust=trust("good"), checks=[*others, unseen]))
    assert alone.headline.endswith("But no second network has confirmed it.")
    refined = run_of(calibration(), trust=trust("good"), checks=[*others, unseen], posterior="refined")
    assert verdict_of(refined).headline.endswith(
        "But it was refined around other data, and nothing tells of its error at these."
    )
    assert alone.state == "all checks made passed"
    assert "No error seen" in [card.state for card in alone.cards]
    seen = {**unseen, "verdict": f"{RIGHT}: middles to 0.1 sds, widths to 7%; a second network"}
    both = verdict_of(run_of(calibration(), trust=trust("good"), checks=[*others, seen]))
    assert (both.missing, both.state) == ([], "all checks passed")


def test_every_answer_has_five_lights_in_words():
    run = run_of(
        calibration(), trust=trust("good"), checks=[{"name": "prior bounds", "level": "good", "verdict": "far"}]
    )
    said = verdict_of(run)
    found = said.lights
    assert [one.words for one in found] == [
        "calibrated",
        "data like simulations",
        "data not compared with predictions",
        "no likelihood to correct by",
        "prior wide enough",
    ]
    assert [one.colour for one in found] == ["green", "green", "grey", "grey", "green"]
    assert all(SYMBOLS[one.colour] in verdict_part(run, said) for one in found)


def test_missing_numbers_are_not_counted_as_observed():
    data = Checked("v", "mV", (), "linear", np.array([1.0, np.nan, 2.0]), np.zeros((5, 3)))
    assert about(replace(run_of(None), checked=(data,))).startswith("2 of 3 values of v [mV]")
    assert about(replace(run_of(None), checked=(replace(data, observed=np.ones(3)),))).startswith("3 values of v [mV]")


@pytest.mark.parametrize(
    ("said", "clause"),
    [
        (
            "Coverage is too narrow (dangerous): a 30% region holds 23% (p = 4e-08 on 2,000 simulations).",
            "Coverage is too narrow: a 30% region holds 23%",
        ),
        ("It is so; and more of it.", "It is so"),
        ("First. Second.", "First"),
        ("At 0.5 (0.1 to 0.9) m. Look.", "At 0.5 (0.1 to 0.9) m"),
        (f"{'word, ' * 60}end.", f"{('word, ' * 30)[:-2]} …"),
    ],
)
def test_a_finding_in_one_clause(said, clause):
    assert brief(said) == clause
