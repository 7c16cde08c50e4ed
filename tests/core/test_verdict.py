"""The verdict on an answer: which findings decide, which are weaker evidence, and its sentence."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sciinf.core.findings import Cause, Evidence, Finding, Level
from sciinf.core.records import NOT_CALIBRATED, Calibration, Trust, calibration_finding, said_of, weights_finding
from sciinf.core.verdict import COMBINED, brief, verdict_from
from sciinf.diagnostics.right import Kind, local_check

PASSED, OFF, FEW_FRESH = (
    calibration_finding({"state": state, "reasons": [words]})
    for state, words in (
        ("passed", "all agree"),
        ("not passed", "coverage is too narrow: a 65% region holds 51%"),
        ("cannot tell", "100 fresh simulations are too few"),
    )
)
WIDE = calibration_finding({"state": "not passed", "cautious": True, "reasons": ["coverage is too wide"]})
NEVER = calibration_finding({"state": "not checked", "reasons": [NOT_CALIBRATED]})
LIKE, ODD, UNLIKE, UNCOMPARED = (
    Trust(p, f"{level} data", level).finding
    for p, level in ((0.5, Level.GOOD), (0.03, Level.CAUTION), (0.001, Level.ALARM), (None, Level.UNKNOWN))
)
WEIGHTED, TOO_FEW, HEAVY = (
    weights_finding(ess, 10_000, k, likelihood=True) for ess, k in ((5_000.0, 0.2), (50.0, 0.2), (5_000.0, 0.7))
)
BY_SUCCESS, BY_FEW = (weights_finding(5_000.0, 10_000, k, likelihood=False) for k in (0.2, 0.9))
UNSEEN, LOST, HINTED, UNTOLD, UNSETTLED, WRONG, UNCHECKED = (
    local_check(kind, "some figures")
    for kind in (Kind.UNSEEN, Kind.LOST, Kind.HINTED, Kind.UNTOLD, Kind.UNSETTLED, Kind.WRONG, Kind.UNCHECKED)
)
FAR = local_check(Kind.UNSETTLED, "its chance error is large", far=True)
CONFIRMED, SETTLED = (local_check(Kind.RIGHT, "some figures", second=second) for second in (True, False))
EDGE = Finding("prior bounds", Level.CAUTION, "the posterior is at the edge of the prior", cause=Cause.PRIOR)
STRANGE = Finding("strange data", Level.ALARM, "one number is 9 sds too high", cause=Cause.DATA)
UNTOLD_DATA = Finding("residuals", Level.UNKNOWN, "not checked whether the model reproduces the data")
MEMBERS = Finding("ensemble", Level.CAUTION, "its members differ", "", {}, Cause.SIMULATIONS, Evidence.AVERAGE)


@pytest.mark.parametrize(
    ("findings", "level", "evidence", "because", "weaker"),
    [
        # The strongest evidence decides, and what says otherwise is named.
        ((PASSED, LIKE, WEIGHTED), "good", Evidence.LIKELIHOOD, (), ()),
        ((OFF, LIKE, WEIGHTED), "good", Evidence.LIKELIHOOD, (), (OFF,)),
        ((NEVER, LIKE, WEIGHTED), "good", Evidence.LIKELIHOOD, (), (NEVER,)),
        ((OFF, LIKE, WEIGHTED, WRONG), "good", Evidence.LIKELIHOOD, (), (OFF, WRONG)),
        ((PASSED, LIKE, TOO_FEW), "caution", Evidence.LIKELIHOOD, (TOO_FEW,), ()),
        ((OFF, LIKE, SETTLED), "good", Evidence.ROUNDS, (), (OFF,)),
        ((OFF, LIKE, MEMBERS, SETTLED), "good", Evidence.ROUNDS, (), (OFF, MEMBERS)),
        ((PASSED, LIKE, CONFIRMED), "good", Evidence.NETWORK, (), ()),
        ((OFF, LIKE, CONFIRMED), "good", Evidence.NETWORK, (), (OFF,)),
        # Weights of which a few carry all say so, whatever else is known.
        ((PASSED, LIKE, HEAVY), "alarm", Evidence.LIKELIHOOD, (HEAVY,), ()),
        ((PASSED, LIKE, HEAVY, CONFIRMED), "alarm", Evidence.LIKELIHOOD, (HEAVY,), ()),
        # Other weights mend no network, and speak for none.
        ((OFF, LIKE, BY_SUCCESS), "alarm", Evidence.AVERAGE, (OFF,), ()),
        ((PASSED, LIKE, BY_SUCCESS), "caution", Evidence.AVERAGE, (), ()),
        ((PASSED, LIKE, BY_FEW, CONFIRMED), "alarm", Evidence.NETWORK, (BY_FEW,), ()),
        # Nothing stronger than the local check alone.
        ((PASSED, LIKE, UNSEEN), "caution", Evidence.CHECK, (), ()),
        ((PASSED, LIKE), "caution", Evidence.AVERAGE, (), ()),
        ((WIDE, LIKE), "caution", Evidence.AVERAGE, (WIDE,), ()),
        ((PASSED, LIKE, LOST), "caution", Evidence.CHECK, (LOST,), ()),
        ((PASSED, LIKE, HINTED), "caution", Evidence.CHECK, (HINTED,), ()),
        ((PASSED, LIKE, WRONG), "alarm", Evidence.CHECK, (WRONG,), ()),
        ((OFF, LIKE), "alarm", Evidence.AVERAGE, (OFF,), ()),
        ((PASSED, LIKE, MEMBERS), "caution", Evidence.AVERAGE, (MEMBERS,), ()),
        # Where the strongest cannot tell, the next counts as well.
        ((PASSED, LIKE, UNSETTLED), "caution", Evidence.AVERAGE, (UNSETTLED,), ()),
        ((PASSED, LIKE, UNTOLD), "caution", Evidence.AVERAGE, (UNTOLD,), ()),
        ((PASSED, LIKE, FAR), "unknown", Evidence.AVERAGE, (FAR,), ()),
        ((OFF, LIKE, UNSETTLED), "alarm", Evidence.AVERAGE, (OFF,), ()),
        ((WIDE, LIKE, UNTOLD), "caution", Evidence.AVERAGE, (UNTOLD, WIDE), ()),
        ((NEVER, LIKE, UNTOLD), "unknown", None, (UNTOLD, NEVER), ()),
        ((FEW_FRESH, LIKE, UNSETTLED), "unknown", None, (UNSETTLED, FEW_FRESH), ()),
        # Nobody looked, or too few simulations did.
        ((NEVER, LIKE), "unknown", None, (NEVER,), ()),
        ((FEW_FRESH, LIKE), "unknown", None, (FEW_FRESH,), ()),
        ((NEVER, LIKE, UNSEEN), "caution", Evidence.CHECK, (), (NEVER,)),
        ((), "unknown", None, (), ()),
        # Data and draws always count, whatever the network did.
        ((PASSED, UNLIKE, WEIGHTED), "alarm", Evidence.LIKELIHOOD, (UNLIKE,), ()),
        ((PASSED, LIKE, WEIGHTED, STRANGE), "alarm", Evidence.LIKELIHOOD, (STRANGE,), ()),
        ((PASSED, ODD, CONFIRMED), "caution", Evidence.NETWORK, (ODD,), ()),
        ((PASSED, LIKE, CONFIRMED, EDGE), "caution", Evidence.NETWORK, (EDGE,), ()),
        ((OFF, ODD, CONFIRMED, EDGE), "caution", Evidence.NETWORK, (ODD, EDGE), (OFF,)),
        ((OFF, UNLIKE, SETTLED, EDGE), "alarm", Evidence.ROUNDS, (UNLIKE,), (OFF,)),
        # One of these that could not be made calls for care.
        ((PASSED, UNCOMPARED, CONFIRMED), "caution", Evidence.NETWORK, (UNCOMPARED,), ()),
        ((PASSED, LIKE, WEIGHTED, UNTOLD_DATA), "caution", Evidence.LIKELIHOOD, (UNTOLD_DATA,), ()),
        ((PASSED, LIKE, UNCHECKED), "caution", Evidence.AVERAGE, (UNCHECKED,), ()),
        ((PASSED, LIKE, UNSETTLED, UNTOLD_DATA), "caution", Evidence.AVERAGE, (UNSETTLED, UNTOLD_DATA), ()),
    ],
)  # fmt: skip
def test_the_strongest_evidence_decides(findings, level, evidence, because, weaker) -> None:
    verdict = verdict_from(findings)
    assert (verdict.level, verdict.evidence) == (level, evidence)
    assert (verdict.because, verdict.weaker) == (because, weaker)
    assert verdict.findings == findings


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_the_order_of_findings_does_not_matter(order) -> None:
    findings = (OFF, ODD, CONFIRMED, EDGE)
    assert verdict_from([findings[k] for k in order]).level == "caution"


@pytest.mark.parametrize("worse", [ODD, UNLIKE, UNCOMPARED, EDGE, STRANGE, UNTOLD_DATA])
@pytest.mark.parametrize("known", [(PASSED,), (OFF,), (NEVER,), (PASSED, UNSEEN), (PASSED, UNTOLD), (OFF, CONFIRMED)])
def test_what_is_found_of_data_or_draws_makes_no_verdict_better(known, worse) -> None:
    assert verdict_from((*known, worse)).level >= verdict_from(known).level
    assert verdict_from((*known, worse)).level > Level.GOOD


def _of_data(*p) -> list[Finding]:
    """Findings of checks of one observation whose p-values are combined."""
    levels = [  # the second check, of strange data, has no cautions
        Level.ALARM if each < 0.01 else Level.CAUTION if each < 0.05 and k == 0 else Level.GOOD
        for k, each in enumerate(p)
    ]
    return [
        Finding(f"check {k}", level, f"odd {k} (p = {p[k]})", "", {"p": p[k], COMBINED: True})
        for k, level in enumerate(levels)
    ]


@pytest.mark.parametrize(
    ("p", "level"),
    [
        ((0.009,), "alarm"),
        ((0.5, 0.001), "alarm"),
        ((0.009, 0.011), "alarm"),
        ((0.058, 0.009), "caution"),
        ((0.9, 0.009), "caution"),
        ((0.0, 1.0), "alarm"),
        ((0.02,), "caution"),
        ((0.04, 0.04), "caution"),
        ((0.03, 0.5), "good"),
        ((0.3, 0.4), "good"),
    ],
)
def test_checks_of_the_same_data_alarm_together(p, level) -> None:
    verdict = verdict_from((PASSED, CONFIRMED, *_of_data(*p)))
    assert verdict.level == level
    assert ("this check alone says so" in verdict.sentence) == (level == "caution" and min(p) < 0.01)
    alone = [one for one in verdict.findings if one.level == "caution" and level == "good"]
    assert list(verdict.weaker) == alone
    assert all(verdict.line_of(one).startswith("weaker evidence: ") for one in alone)
    unchecked = verdict_from((NEVER, *_of_data(*p)))
    assert unchecked.level == ("alarm" if level == "alarm" else "unknown")
    assert ("odd" in unchecked.sentence) == (min(p) < 0.01)


def test_other_alarms_stand_whatever_these_checks_say() -> None:
    coarse = Finding("predictive", Level.ALARM, "unlike data from its posterior", figures={"p": 0.0031})
    for one in (STRANGE, coarse, UNLIKE):
        assert verdict_from((PASSED, CONFIRMED, one, *_of_data(0.5, 0.6))).level == "alarm"


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_two_checks_refuse_one_right_answer_in_a_hundred_and_doubt_few_more(shared) -> None:
    generator = torch.Generator().manual_seed(0)
    common, own = torch.randn(4_000, 1, generator=generator), torch.randn(4_000, 2, generator=generator)
    p = torch.special.ndtr(math.sqrt(shared) * common + math.sqrt(1 - shared) * own).tolist()
    refused = sum(verdict_from((PASSED, CONFIRMED, *_of_data(*each))).level == "alarm" for each in p) / len(p)
    doubted = sum(verdict_from((PASSED, CONFIRMED, *_of_data(*each))).level >= Level.CAUTION for each in p) / len(p)
    assert 0.01 < doubted < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(p))  # chance of a false alarm: one in 700
    alone = sum(min(each) < 0.01 for each in p) / len(p)
    assert abs(refused - 0.01) < 3 * math.sqrt(0.01 * 0.99 / len(p))  # chance of a false alarm: one in 400
    assert alone > (0.015 if shared < 0.9 else 0.01)


@pytest.mark.parametrize(
    ("findings", "sentence"),
    [
        ((OFF, LIKE, WEIGHTED), "Rely on this answer: its draws are weighted by the simulator's likelihood."),
        (
            (PASSED, LIKE, SETTLED),
            "Rely on this answer: rounds of simulations around this observation have settled it.",
        ),
        (
            (OFF, LIKE, CONFIRMED),
            "Rely on this answer: a second network, trained around this observation, gives the same answer.",
        ),
        (
            (PASSED, LIKE, UNSEEN),
            "Rely with care on this answer: no error was seen at this observation, but no second network has "
            "confirmed that.",
        ),
        ((PASSED, LIKE), "Rely with care on this answer: not checked at this observation."),
        ((PASSED, ODD), "Rely with care on this answer: caution data; not checked at this observation."),
        ((OFF, LIKE), "Do not rely on this answer: coverage is too narrow: a 65% region holds 51%."),
        ((PASSED, UNLIKE), "Do not rely on this answer: alarm data."),
        (
            (PASSED, LIKE, UNSETTLED),
            "Rely with care on this answer: the check at this observation is not conclusive: some figures; on "
            "average over its simulations its network is right.",
        ),
        (
            (FEW_FRESH, LIKE, UNSETTLED),
            "Cannot tell whether to rely on this answer: the check at this observation is not conclusive: some "
            "figures; 100 fresh simulations are too few; to tell, simulate around this observation (infer with "
            "refine='auto').",
        ),
        (
            (NEVER, LIKE),
            f"Cannot tell whether to rely on this answer: {NOT_CALIBRATED}; to tell, calibrate on more fresh "
            "simulations.",
        ),
    ],
)
def test_the_sentence_begins_with_the_verdict_and_says_why(findings, sentence) -> None:
    verdict = verdict_from(findings)
    assert verdict.sentence == str(verdict) == sentence
    assert verdict.to_json() == {"verdict": str(verdict.level), "sentence": sentence}


def test_every_level_has_its_word() -> None:
    found = {verdict_from(one).word for one in ((WEIGHTED,), (PASSED,), (NEVER,), (OFF,))}
    assert found == {"rely", "rely with care", "cannot tell", "do not rely"}


def test_weaker_evidence_does_not_warn_on_its_line() -> None:
    verdict = verdict_from((OFF, LIKE, WEIGHTED))
    assert verdict.line_of(OFF) == f"weaker evidence: {OFF.words}"
    assert verdict.line_of(LIKE) == "good: good data"
    assert verdict_from((OFF, LIKE)).line_of(OFF) == f"WARNING: {OFF.words}"
    assert verdict_from((NEVER, LIKE)).line_of(NEVER) == f"UNKNOWN: {NOT_CALIBRATED}"


@pytest.mark.parametrize(
    ("findings", "causes"),
    [
        ((PASSED, LIKE, CONFIRMED), ()),
        ((OFF, LIKE, WEIGHTED), ()),
        ((PASSED, LIKE), (Cause.AROUND,)),
        ((PASSED, LIKE, UNSEEN), (Cause.AROUND,)),
        ((NEVER, LIKE), (Cause.FRESH, Cause.AROUND)),
        ((OFF, LIKE), (Cause.SIMULATIONS,)),
        ((OFF, LIKE, UNTOLD), (Cause.SIMULATIONS, Cause.AROUND)),
        ((PASSED, LIKE, LOST), (Cause.SUMMARY, Cause.AROUND)),
        ((PASSED, UNLIKE, SETTLED, EDGE), (Cause.SCALE,)),
        ((PASSED, ODD, CONFIRMED, EDGE), (Cause.SCALE, Cause.PRIOR)),
    ],
)
def test_what_has_to_change(findings, causes) -> None:
    assert verdict_from(findings).causes == causes


def test_words_decide_nothing() -> None:
    """Findings whose sentences claim the opposite of their levels."""
    lies = {Level.GOOD: "not right at this observation", Level.ALARM: "right at this observation: good, passed"}
    for strength in Evidence:
        for level, words in lies.items():
            found = verdict_from([Finding("local check", level, words, evidence=strength)]).level
            least = Level.CAUTION if strength <= Evidence.CHECK else Level.GOOD
            assert found == max(level, least)


@pytest.mark.parametrize(
    ("said", "clause"),
    [
        (
            "Coverage is too narrow: a 30% region holds 23% (p = 4e-08 on 2,000 simulations).",
            "Coverage is too narrow: a 30% region holds 23%",
        ),
        ("It differs (2,000 simulations around it); and more", "It differs"),
        ("It is odd (p = 0.01 among 500 simulations). Look at it", "It is odd"),
        ("It is so; and more of it.", "It is so"),
        ("First. Second.", "First"),
        ("At 0.5 (0.1 to 0.9) m. Look.", "At 0.5 (0.1 to 0.9) m"),
        (f"{'word, ' * 60}end.", f"{('word, ' * 30)[:-2]} ..."),
    ],
)
def test_a_finding_in_one_clause(said, clause) -> None:
    assert brief(said) == clause


def test_levels_are_ordered_and_equal_their_text() -> None:
    assert sorted(map(Level, ("alarm", "good", "unknown", "caution"))) == ["good", "caution", "unknown", "alarm"]
    assert max(Level.CAUTION, Level.ALARM, Level.UNKNOWN) is Level.ALARM
    assert [one.label for one in Level] == ["good", "caution", "UNKNOWN", "WARNING"]
    with pytest.raises(ValueError, match="one of 'good', 'caution', 'unknown', 'alarm', got 'unusual'"):
        Finding("trust", "unusual", "words")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("finding", [PASSED, OFF, UNLIKE, WEIGHTED, HEAVY, LOST, CONFIRMED, UNCHECKED, EDGE, MEMBERS])
def test_a_finding_comes_back_from_json(finding) -> None:
    assert Finding.from_json(finding.to_json()) == finding


@pytest.mark.parametrize(("p", "gap", "alone"), [(0.2, 0.01, True), (1e-6, 0.02, True), (1e-6, 0.08, False)])
def test_tails_alone_call_for_care(p, gap, alone) -> None:
    """A right answer was "do not rely" for a 99.9 % interval that held 99.63 %, while its 90 % intervals were right."""
    none = np.array([])
    tests = {"rank of a": (p, gap), "interval of a": (0.5, 0.01), "tail of a": (1e-9, 0.004)}
    ps, gaps = ({name: pair[k] for name, pair in tests.items()} for k in (0, 1))
    found = Calibration(
        ("a",), none, 9, none, none, none, ps, gaps, "it", "f", "s", 0, "not passed", ("a tail is off",)
    )
    assert (found.tails_alone, found.level) == (alone, "caution" if alone else "alarm")
    assert calibration_finding(said_of(found)).level == found.level
    assert not replace(found, state="passed").tails_alone
