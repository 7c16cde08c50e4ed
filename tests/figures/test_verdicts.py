"""The verdict on an answer of a run folder, with its findings in colours: what the files say, and what they lack."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciinf.core import Answer, Draws
from sciinf.core.estimates import estimates
from sciinf.core.findings import Finding, Level
from sciinf.core.records import NOT_CALIBRATED, Calibration, Trust
from sciinf.diagnostics.right import NAME, Kind, local_check
from sciinf.interfaces.figures.checked import Checked
from sciinf.interfaces.figures.checks import checks_part
from sciinf.interfaces.figures.first_screen import about, verdict_part, verdicts_part
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.verdicts import COLOURS, SYMBOLS, cards, verdict_of

RIGHT = local_check(Kind.RIGHT, "centres within 0.1 sds", second=True).to_json()
UNSEEN = local_check(Kind.UNSEEN, "centres within 0.1 sds").to_json()


def calibration(*, state: Any = "passed", of: str = "amortised", cautious: bool = False) -> Calibration:
    none, ranks = np.array([]), np.arange(100)[:, None] % 10
    reasons = ("all agree" if state == "passed" else "coverage is off by 10.0%",)
    return Calibration(("a",), ranks, 9, none, none, none, {}, {}, of, "f", "s", 0, state, reasons, cautious)


def run_of(found: Calibration | None, fit: str = "f", **answer: Any) -> Run:
    missing = {"calibration": "The posterior has not been checked.", "answer": "No observation yet."}
    return Run(Path("run"), answer, None, (), found, {"digest": fit}, {}, {}, {}, missing)


def words_of(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def band(found: Calibration | None, fit: str = "f", **answer: Any) -> str:
    """What a reader sees of the verdict and of all checks."""
    run = run_of(found, fit, **answer)
    said = verdict_of(run)
    return words_of(verdict_part(run, said) + checks_part(run, said, pictures=False))


def trust(level: str, p: float | None = 0.4) -> dict[str, Any]:
    return {"p_value": p, "verdict": "it fits", "level": level}


@pytest.fixture
def answer() -> Answer:
    """An answer of a network that is too narrow, confirmed at its observation."""
    draws = Draws(("a",), ("m",), torch.randn(500, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(500))
    checks = (
        local_check(Kind.RIGHT, "centres within 0.1 sds", second=True),
        Finding("noise", Level.UNKNOWN, "not told"),
    )
    seen = Trust(0.4, "it fits", Level.GOOD)
    return Answer(
        estimates(draws, 0.9), draws, calibration(state="not passed"), seen, posterior="amortised", checks=checks
    )


WEIGHTED = {"trust": trust("good"), "pareto_k": 0.2, "ess": 5000.0, "draws": 10_000}
CONFIRMED = {"trust": trust("good"), "checks": [RIGHT]}


def test_an_answer_that_all_speaks_for_is_relied_on():
    text = band(calibration(), **WEIGHTED)
    assert text.startswith("Rely on this answer: its draws are weighted by the simulator's likelihood.")
    assert "All agree." in text
    assert "It fits." in text
    assert "10,000 draws, weighted by the likelihood, are worth 5,000" in text
    assert band(calibration(), **CONFIRMED).startswith("Rely on this answer: a second network")


@pytest.mark.parametrize(
    ("found", "answer", "level", "why"),
    [
        (calibration(state="not passed"), {"trust": trust("good")}, "alarm", "coverage is off by 10.0%"),
        (calibration(state="cannot tell"), {"trust": trust("good")}, "unknown", "coverage is off by 10.0%"),
        (calibration(state="not passed", cautious=True), {"trust": trust("good")}, "caution", "coverage is off"),
        (None, {"trust": trust("good")}, "unknown", NOT_CALIBRATED),
        (calibration(), {"trust": trust("good")}, "caution", "not checked at this observation"),
        (calibration(), {"trust": trust("good"), "checks": [UNSEEN]}, "caution", "no second network has confirmed"),
        (calibration(), {**CONFIRMED, "trust": trust("alarm", 0.009)}, "alarm", "it fits"),
        (calibration(), {**CONFIRMED, "trust": trust("caution", 0.03)}, "caution", "it fits"),
        (calibration(), {**CONFIRMED, "trust": trust("unusual", 0.03)}, "caution", "it fits"),
        (calibration(), {**CONFIRMED, "trust": trust("unknown", None)}, "caution", "it fits"),
        (calibration(), {**CONFIRMED, "trust": trust("unknown", 0.1)}, "caution", "it fits"),
        (calibration(), {**CONFIRMED, "trust": {"p_value": 0.4, "verdict": "it fits"}}, "caution", "not compared"),
        (calibration(), {**CONFIRMED, "trust": trust("green")}, "caution", "not compared"),
        (calibration(), {"checks": [RIGHT]}, "caution", "was not compared with simulations"),
        (calibration(), {}, "caution", "No observation yet"),
        (calibration(), {**WEIGHTED, "pareto_k": 0.9}, "alarm", "Pareto k is 0.90"),
        (calibration(), {**WEIGHTED, "pareto_k": 0.3, "ess": 50.0}, "caution", "are worth 50"),
    ],
)
def test_one_finding_that_is_not_good_is_enough(found, answer, level, why):
    verdict = verdict_of(run_of(found, **answer))
    assert verdict.level == level
    assert why in verdict.sentence


def test_a_calibration_of_another_fit_calls_for_care():
    verdict = verdict_of(run_of(calibration(), fit="g", **CONFIRMED))
    assert (verdict.level, [one.name for one in verdict.because]) == ("caution", ["files"])
    assert "another fit" in verdict.sentence
    assert verdict_of(run_of(calibration(of="ensemble of 3"), fit="g", **CONFIRMED)).level == "good"


def test_a_calibration_made_anew_is_not_that_of_the_answer():
    """As where the run was trained on more, for another observation, and this answer is still of the first network."""
    said = {"state": "cannot tell", "passed": False, "reasons": ["too few"], "of": "amortised", "fit": "e"}

    def verdict(said: dict[str, Any], found: Calibration | None = None):
        return verdict_of(run_of(found or calibration(), **CONFIRMED, calibration=said))

    assert verdict(said).level == "caution"
    assert "calibrated anew since this answer" in verdict(said).sentence
    assert verdict(said).findings[0].words == "too few", "what the answer was given with"
    alone = run_of(calibration(), trust=trust("good"), calibration={**said, "state": "not passed"})
    assert verdict_of(alone).level == "alarm"
    same = {**said, "state": "passed", "passed": True, "reasons": ["all agree"]}
    assert verdict(same).level == "caution", "of another fit"
    assert verdict({**same, "fit": "f"}).level == "good"
    del same["fit"]  # of an earlier version
    assert verdict(same).level == "good"


@pytest.mark.parametrize("cautious", [True, False])
def test_whether_regions_hold_too_much_is_known_from_the_calibration_where_an_answer_does_not_say(cautious):
    found = calibration(state="not passed", cautious=cautious)
    said = {"state": "not passed", "passed": False, "reasons": list(found.reasons), "of": "amortised", "fit": "f"}
    verdict = verdict_of(run_of(found, trust=trust("good"), calibration=said))
    assert verdict.level == ("caution" if cautious else "alarm")


def test_a_damaged_calibration_calls_for_care(tmp_path):
    said = {"state": "passed", "passed": True, "reasons": ["all agree"], "of": "amortised"}
    missing = {"calibration": "calibration.json could not be read: it is empty"}
    run = Run(tmp_path, {**CONFIRMED, "calibration": said}, None, (), None, {}, {}, {}, {}, missing)
    assert verdict_of(run).level == "good"  # an answer that went to a folder of its own
    (tmp_path / "calibration.json").write_text("")
    assert verdict_of(run).sentence == (
        "Rely with care on this answer: calibration.json could not be read: it is empty."
    )


def test_what_is_damaged_in_the_folder_calls_for_care():
    run = replace(run_of(calibration(), **CONFIRMED), doubts=("draws.h5 is damaged.", "nor is fit.json whole"))
    assert verdict_of(run).sentence == "Rely with care on this answer: draws.h5 is damaged."
    assert verdict_of(run).because[0].words == "draws.h5 is damaged; nor is fit.json whole"


def test_an_unchecked_posterior_is_no_good_one():
    said = {"passed": False, "reasons": [NOT_CALIBRATED]}
    run = run_of(None, trust=trust("good"), calibration=said)
    assert verdict_of(run).level == "unknown"
    assert "The posterior has not been checked." in words_of(checks_part(run, verdict_of(run)))


def test_without_its_file_the_answers_word_on_calibration_is_passed_on():
    said = {"passed": False, "reasons": ["coverage is off by 10.0%"], "of": "ensemble of 3"}
    verdict = verdict_of(run_of(None, trust=trust("good"), calibration=said, posterior="amortised"))
    assert verdict.level == "alarm"
    assert verdict.findings[0].words == "of the ensemble of 3 posterior: coverage is off by 10.0%"


def test_the_verdict_is_on_the_corrected_answer_and_not_on_the_network_it_began_from():
    run = run_of(calibration(state="not passed"), **WEIGHTED)
    verdict = verdict_of(run)
    assert (verdict.level, [one.name for one in verdict.weaker]) == ("good", ["calibration"])
    (card,) = [one for one in cards(verdict) if one.title == "Calibration"]
    assert (card.colour, card.state) == ("grey", "Weaker evidence")
    assert card.words == "Coverage is off by 10.0%."
    assert "Warning" not in band(calibration(state="not passed"), **WEIGHTED)
    assert verdict_of(run_of(calibration(state="not passed"), **{**WEIGHTED, "pareto_k": 0.9})).level == "alarm"


@pytest.mark.parametrize("words", ["1 / P(success)", "P(success)"])
def test_weights_other_than_the_likelihood_do_not_mend_a_network(words):
    """Of answers of earlier versions, which have no finding about weights."""
    answer = {**WEIGHTED, "posterior": f"amortised, weighted by {words}"}
    assert verdict_of(run_of(calibration(state="not passed"), **answer)).level == "alarm"
    assert verdict_of(run_of(calibration(), **answer)).level == "caution"
    answer["posterior"] = f"amortised, reweighted by the likelihood, weighted by {words}"
    assert verdict_of(run_of(calibration(state="not passed"), **answer)).level == "good"


@pytest.mark.parametrize("level", [*Level])
def test_a_card_for_each_finding_has_the_colour_of_its_level(level):
    found = Finding("a new check", level, "it is so (p = 0.3); and more of it")
    run = run_of(calibration(), **{**CONFIRMED, "checks": [RIGHT, found.to_json()]})
    shown = cards(verdict_of(run))
    assert [card.title for card in shown] == ["Calibration", "Trust", "Local check", "A new check"]
    assert [card.colour for card in shown] == ["green", "green", "green", COLOURS[level]]
    assert (shown[-1].words, shown[-1].clause) == ("It is so (p = 0.3); and more of it.", "It is so")
    text = band(calibration(), **run.answer)
    assert f"A new check {shown[-1].state}. It is so. It is so (p = 0.3); and more of it." in text
    assert f"{SYMBOLS[COLOURS[level]]} a new check" in text


@pytest.mark.parametrize(
    "name", [NAME, "tails", "strange data", "predictive", "residuals", "prior bounds", "noise", "new"]
)
@pytest.mark.parametrize("level", ["caution", "alarm", "unknown"])
def test_no_verdict_is_better_than_a_finding_that_decides(name, level):
    """Whatever the check is called, and whichever version wrote it."""
    good = [{"name": n, "level": "good", "verdict": "fine"} for n in ("predictive", "prior bounds")]
    bad = {"name": name, "level": level, "verdict": "it is not so"}
    verdict = verdict_of(run_of(calibration(), trust=trust("good"), checks=[*good, bad]))
    colour = COLOURS[Level(level)]
    assert [card.colour for card in cards(verdict)].count(colour) == 1
    assert COLOURS[verdict.level] == ("red" if level == "alarm" else "amber")
    assert "it is not so" in verdict.sentence


def test_a_run_and_its_answer_have_the_same_verdict(answer):
    run = Run(Path("run"), answer.to_json(), None, (), answer.calibration, {"digest": "f"}, {}, {}, {}, {})
    assert verdict_of(run).sentence == answer.verdict.sentence
    assert verdict_of(run).findings == answer.verdict.findings


def test_the_verdict_stands_in_its_colour_with_the_next_command():
    run = replace(run_of(calibration(), trust=trust("good")), provenance={"next": "next: sciinf query --draws 9"})
    part = verdict_part(run, verdict_of(run))
    assert '<section class="verdict amber"' in part
    assert "<code" in part
    good = replace(run_of(calibration(), **CONFIRMED), provenance=run.provenance)
    part = verdict_part(good, verdict_of(good))
    assert '<section class="verdict green"' in part
    assert "<code" not in part


def test_several_answers_are_counted_and_those_that_are_not_good_are_named():
    runs = {name: run_of(calibration(), **CONFIRMED) for name in "ab"}
    runs["c"] = run_of(calibration(), trust=trust("good"))
    runs["d"] = run_of(calibration(), trust=trust("alarm"))
    verdicts = {name: verdict_of(run) for name, run in runs.items()}
    part = verdicts_part(runs, verdicts)
    assert "2 of 4 answers can be relied on. Do not rely on d. Rely with care on c. Rely on a, b." in words_of(part)
    assert '<section class="verdict red"' in part
    del runs["c"], runs["d"]
    part = verdicts_part(runs, {name: verdicts[name] for name in runs})
    assert words_of(part) == "2 of 2 answers can be relied on. Rely on a, b."
    assert '<section class="verdict green"' in part


def test_each_command_of_several_runs_is_copied_by_its_own_button():
    said = {"a": "next: sciinf query A", "b": "next: sciinf query B", "c": "next: sciinf query A"}
    runs = {name: replace(run_of(calibration()), provenance={"next": line}) for name, line in said.items()}
    part = verdicts_part(runs, {name: verdict_of(run) for name, run in runs.items()})
    assert re.findall('<code id="next([0-9])">(.*?)</code>', part) == [("0", "sciinf query A"), ("1", "sciinf query B")]


def test_missing_numbers_are_not_counted_as_observed():
    data = Checked("v", "mV", (), "linear", np.array([1.0, np.nan, 2.0]), np.zeros((5, 3)))
    assert about(replace(run_of(None), checked=(data,))).startswith("2 of 3 values of v [mV]")
    assert about(replace(run_of(None), checked=(replace(data, observed=np.ones(3)),))).startswith("3 values of v [mV]")
