"""Findings that earlier versions wrote, with a level and a sentence alone, have the kind and evidence that these told.

The sentences are those of the last version that had no kinds, word for word; they never change.
"""

from __future__ import annotations

import pytest

from sciinf.core.earlier_findings import level_of_trust, too_wide
from sciinf.core.findings import Cause, Evidence, Finding, Level
from sciinf.core.records import Trust, calibration_finding
from sciinf.core.verdict import verdict_from
from sciinf.diagnostics.right import NAME, Kind
from sciinf.diagnostics.second import compared, undecided

FIGURES = "middles to 0.1 sds, widths to 7% (2,000 simulations around it)"
LOST = "the data tell more of mu than the network uses (3% of its error) (2,000 simulations around it)"
FAR = "draws far out, where no simulation lies, make the sd of mu 20% larger than its 90% interval tells"
DIFFERS = (
    "a second network, trained on 5,000 simulations around it, differs: middles by up to 0.12 sds, widths by up to 0%"
)
AGREES = (
    "a second network, trained on 5,000 simulations around it, differs by little: middles by up to 0.04 sds, widths by "
    "up to 2.02%"
)
WAY_ON = "Refine it (infer --refine auto), or train on more simulations"
MORE = (
    "Train on more simulations, on some around it (infer --refine auto), or with a summary that keeps more of the data"
)
MODEL = "it cannot be told whether the posterior is right at this observation, for the model does not reproduce it"
UNCHECKED = "not checked whether the posterior is right at this observation"


def read(name: str, level: str, words: str) -> Finding:
    """As `answer.json` had it."""
    return Finding.from_json({"name": name, "level": level, "verdict": words})


@pytest.mark.parametrize(
    ("level", "words", "kind", "evidence", "cause", "details"),
    [
        (
            "good", f"right at this observation: {FIGURES}; its last round hardly moved it", Kind.RIGHT,
            Evidence.ROUNDS, None, f"{FIGURES}; its last round hardly moved it",
        ),
        ("good", f"no error seen at this observation: {FIGURES}", Kind.UNSEEN, Evidence.CHECK, None, FIGURES),
        ("caution", f"it may be off at this observation: {LOST}", Kind.LOST, Evidence.CHECK, Cause.SUMMARY, LOST),
        ("caution", f"it may be off at this observation: {FAR}", Kind.HINTED, Evidence.CHECK, Cause.AROUND, FAR),
        (
            "unknown", f"too few simulations to tell whether it is right at this observation: {FIGURES}", Kind.UNTOLD,
            Evidence.CHECK, Cause.AROUND, FIGURES,
        ),
        (
            "unknown", f"cannot be told whether it is right at this observation: its chance error. {MORE}",
            Kind.UNSETTLED, Evidence.CHECK, Cause.AROUND, f"its chance error. {MORE}",
        ),
        (
            "unknown",
            "cannot be told whether it is right at this observation, for the network is wrong on average: no error "
            f"seen at this observation: {FIGURES}",
            Kind.UNSETTLED, Evidence.CHECK, Cause.AROUND, f"no error seen at this observation: {FIGURES}",
        ),
        (
            "alarm", f"not right at this observation: mu is too high by 0.4 of its sds. {MORE}", Kind.WRONG,
            Evidence.CHECK, Cause.AROUND, f"mu is too high by 0.4 of its sds. {MORE}",
        ),
        ("unknown", MODEL, Kind.UNLIKE, Evidence.CHECK, Cause.MODEL, ""),
        (
            "caution", f"{MODEL}; for data of the model: it may be off at this observation: {FAR}", Kind.UNLIKE,
            Evidence.CHECK, Cause.MODEL, f"it may be off at this observation: {FAR}",
        ),
        ("unknown", f"{UNCHECKED}: it has parts of a whole", Kind.UNCHECKED, None, None, "it has parts of a whole"),
        ("unknown", f"{UNCHECKED}: too slow", Kind.UNCHECKED, None, None, "too slow"),
    ],
)  # fmt: skip
def test_what_a_local_check_found(level, words, kind, evidence, cause, details) -> None:
    found = read(NAME, level, words)
    assert (found.level, found.words) == (level, words)
    assert (found.kind, found.evidence, found.cause) == (kind, evidence, cause)
    assert found.figures == {"details": details}


@pytest.mark.parametrize(
    ("level", "words", "kind", "evidence"),
    [
        ("good", f"right at this observation: {FIGURES}; {AGREES}", Kind.RIGHT, Evidence.NETWORK),
        (
            "good",
            f"right at this observation: {AGREES}, and its own check sees no error; the first check: {LOST}",
            Kind.RIGHT,
            Evidence.NETWORK,
        ),
        ("caution", f"it may be off at this observation: {DIFFERS}. {WAY_ON}", Kind.HINTED, Evidence.CHECK),
        ("caution", f"it may be off at this observation: {LOST}; {DIFFERS}. {WAY_ON}", Kind.HINTED, Evidence.CHECK),
        (
            "unknown",
            f"cannot be told whether it is right at this observation: {LOST}; {AGREES}, but its own check cannot "
            f"tell. {WAY_ON}",
            Kind.UNSETTLED,
            Evidence.CHECK,
        ),
    ],
)
def test_what_a_second_network_said(level, words, kind, evidence) -> None:
    found = read(NAME, level, words)
    assert (found.kind, found.evidence, found.figures["second"]) == (kind, evidence, True)
    assert not undecided(found)


@pytest.mark.parametrize(
    ("level", "begins", "details"),
    [
        ("good", "no error seen at this observation", FIGURES),
        ("caution", "it may be off at this observation", LOST),
        ("unknown", "too few simulations to tell whether it is right at this observation", FIGURES),
    ],
)
def test_an_earlier_check_can_still_be_confirmed(level, begins, details) -> None:
    found = read(NAME, level, f"{begins}: {details}")
    assert undecided(found)
    told = compared(found, (0.04, 0.02), 5_000, Level.GOOD)
    assert (told.kind, told.evidence) == (Kind.RIGHT, Evidence.NETWORK)
    assert details in told.words
    assert begins not in told.words


@pytest.mark.parametrize(
    ("name", "level", "words", "p", "cause"),
    [
        ("residuals", "good", "the model reproduces the data: it looks like its noise (p = 0.42)", 0.42, None),
        ("residuals", "alarm", "the model does not (p = 3e-04 among 500 simulations around the answer", 3e-4, "MODEL"),
        ("predictive", "alarm", "the data are unlike predicted ones (p = 0.001)", 0.001, "SCALE"),
        ("prior bounds", "caution", "the posterior of a is at the edge of the prior", None, "PRIOR"),
        ("ensemble", "caution", "14% of the variance of a is between its 2 members", None, "SIMULATIONS"),
        ("few draws", "caution", "an effective size of 50", None, "DRAWS"),
        ("a check that is gone", "alarm", "it is so", None, None),
    ],
)
def test_other_checks_have_their_p_value_and_cause(name, level, words, p, cause) -> None:
    found = read(name, level, words)
    assert found.figures == ({} if p is None else {"p": p})
    assert found.cause == (cause and Cause[cause])
    assert found.evidence == (Evidence.AVERAGE if name == "ensemble" else None)


def test_a_finding_with_a_kind_is_not_told_from_its_words() -> None:
    found = Finding(NAME, Level.ALARM, "right at this observation: no", Kind.WRONG, {}, None, Evidence.CHECK)
    assert Finding.from_json(found.to_json()) == found


def test_unusual_data_are_a_caution() -> None:
    earlier = {"p_value": 0.03, "verdict": "the observation is unusual (p = 0.03)", "level": "unusual"}
    trust = Trust.from_json(earlier)
    assert (trust.level, trust.finding.level, trust.finding.figures) == ("caution", "caution", {"p": 0.03})
    assert all(level_of_trust(word) == word for word in ("good", "alarm", "unknown", "none"))


@pytest.mark.parametrize(
    ("reasons", "wide"),
    [
        (["coverage is too wide (cautious): a 50% region holds 58%"], True),
        (["coverage is too wide (cautious): so", "interval of a is too wide (cautious): so"], True),
        (["coverage is too wide (cautious): so", "interval of a is too narrow (dangerous): so"], False),
        (["coverage is off by 10%"], False),
        ([], False),
    ],
)
def test_whether_a_calibration_is_too_wide_was_said_in_its_reasons_alone(reasons, wide) -> None:
    assert too_wide(tuple(reasons)) == wide
    if reasons:
        said = {"state": "not passed", "passed": False, "reasons": reasons, "of": "amortised"}
        found = calibration_finding(said)
        assert (found.kind, found.level) == (("too wide", "caution") if wide else ("not passed", "alarm"))
        assert "(cautious)" not in found.words, "its level says it"
        assert "(dangerous)" not in found.words
        assert calibration_finding({**said, "cautious": not wide}).level == ("alarm" if wide else "caution")


@pytest.mark.parametrize(("passed", "level"), [(True, "unknown"), (False, "alarm")])
def test_a_calibration_without_a_state_says_whether_it_passed(passed, level) -> None:
    """Of a version that did not ask whether there were enough simulations."""
    assert calibration_finding({"passed": passed, "reasons": ["all agree"]}).level == level


def test_an_earlier_answer_is_judged_as_a_new_one() -> None:
    passed = calibration_finding({"state": "passed", "reasons": ["all agree"], "passed": True})
    trust = Trust.from_json({"p_value": 0.4, "verdict": "it fits", "level": "good"}).finding
    seen = read(NAME, "good", f"no error seen at this observation: {FIGURES}")
    right = read(NAME, "good", f"right at this observation: {FIGURES}; {AGREES}")
    assert [verdict_from((passed, trust, one)).level for one in (seen, right)] == ["caution", "good"]
