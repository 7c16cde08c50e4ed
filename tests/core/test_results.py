"""Draws against known answers; answers and calibrations as JSON and text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from sciinf.core import Answer, Calibration, Draws, Estimate, Finding, Trust
from sciinf.core.findings import Level
from sciinf.core.records import NOT_CALIBRATED


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws_of(theta, log_weight) -> Draws:
    theta = torch.as_tensor(theta, dtype=torch.float32)
    names = tuple("abcdef"[: theta.shape[1]])
    return Draws(names, ("m",) * theta.shape[1], theta, torch.as_tensor(log_weight, dtype=torch.float64))


def test_weights_are_normalised_whatever_their_constant():
    one = draws_of([[0.0], [1.0], [2.0]], [math.log(1), math.log(2), math.log(5)])
    two = draws_of([[0.0], [1.0], [2.0]], one.log_weight - 2000.0)
    for draws in (one, two):
        np.testing.assert_allclose(draws.weights, [0.125, 0.25, 0.625], rtol=1e-12)


def test_effective_sample_size_is_kishs():
    assert draws_of(torch.zeros(7, 1), torch.zeros(7)).ess == pytest.approx(7.0)
    assert draws_of(torch.zeros(3, 1), np.log([1.0, 2.0, 5.0])).ess == pytest.approx(64 / 30)
    assert draws_of(torch.zeros(3, 1), [0.0, -math.inf, -math.inf]).ess == pytest.approx(1.0)


def test_moments_are_weighted():
    draws = draws_of([[0.0, 1.0], [1.0, 1.0], [2.0, 5.0]], np.log([1.0, 2.0, 5.0]))
    np.testing.assert_allclose(draws.mean(), [1.5, 3.5])
    np.testing.assert_allclose(draws.sd(), [math.sqrt(0.5), math.sqrt(3.75)])


def test_quantiles_of_a_known_distribution():
    """u on a grid weighted by 2u has the quantile sqrt(q); the planted fault, weights ignored, would give q."""
    u = torch.linspace(0.0, 1.0, 20_001)[:, None]
    draws = draws_of(torch.cat([u, -u], dim=1)[torch.randperm(20_001, generator=seeded())], torch.zeros(20_001))
    weighted = draws_of(draws.theta, draws.theta[:, 0].double().log())
    for q in (0.05, 0.25, 0.5, 0.9):
        found = weighted.quantile(q)
        np.testing.assert_allclose(found, [math.sqrt(q), -math.sqrt(1 - q)], atol=2e-4)
        np.testing.assert_allclose(draws.quantile(q), [q, q - 1], atol=2e-4)
        assert abs(float(found[0]) - q) > 0.02


def test_quantiles_at_the_ends_are_the_extremes():
    draws = draws_of([[3.0], [1.0], [2.0]], torch.zeros(3))
    assert (float(draws.quantile(0.0)), float(draws.quantile(0.5)), float(draws.quantile(1.0))) == (1.0, 2.0, 3.0)


def test_resampling_plain_draws_is_a_choice_without_repetition():
    draws = draws_of(torch.arange(50.0)[:, None], torch.zeros(50))
    assert sorted(draws.resample(50, generator=seeded())[:, 0].tolist()) == list(range(50))
    some = draws.resample(20, generator=seeded())[:, 0].tolist()
    assert len(set(some)) == 20
    assert len(draws.resample(120, generator=seeded())) == 120


def test_resampling_is_unbiased():
    """Mean counts over 2000 resamplings against n w: chi-square, false-alarm rate below 1e-3 (systematic resampling has
    less variance than the multinomial that the test assumes); fixed seeds. The planted fault: equal counts."""
    weights = np.array([1.0, 2.0, 5.0, 0.0, 2.0])
    draws = draws_of(torch.arange(5.0)[:, None], np.log(weights, where=weights > 0, out=np.full(5, -np.inf)))
    generator = seeded(1)
    picked = torch.cat([draws.resample(3, generator=generator) for _ in range(2000)])[:, 0]
    counts = np.bincount(picked.long().numpy(), minlength=5)
    assert counts[3] == 0
    kept = [0, 1, 2, 4]
    assert chisquare(counts[kept], 6000 * weights[kept] / 10).pvalue > 1e-3
    assert chisquare(counts[kept], [1500] * 4).pvalue < 1e-3


def test_resampling_order_is_random():
    """Systematic resampling alone would return a sorted list; correlation of value and place, 5 standard errors."""
    draws = draws_of(torch.arange(2000.0)[:, None], torch.linspace(0, 0.1, 2000))
    picked = draws.resample(2000, generator=seeded())[:, 0].numpy()
    assert abs(np.corrcoef(picked, np.arange(2000))[0, 1]) < 5 / math.sqrt(2000)


def test_distinct_draws_have_no_duplicates():
    draws = draws_of(torch.arange(100.0)[:, None], torch.linspace(0, 5, 100))
    picked = draws.resample(90, generator=seeded(), distinct=True)[:, 0].tolist()
    assert len(set(picked)) == len(picked) < 90
    repeated = draws.resample(90, generator=seeded())[:, 0].tolist()
    assert len(set(repeated)) < len(repeated) == 90


def test_the_generator_decides():
    draws = draws_of(torch.arange(100.0)[:, None], torch.linspace(0, 5, 100))
    assert torch.equal(draws.resample(30, generator=seeded(1)), draws.resample(30, generator=seeded(1)))
    assert not torch.equal(draws.resample(30, generator=seeded(1)), draws.resample(30, generator=seeded(2)))


def a_calibration(**changes) -> Calibration:
    values = {
        "names": ("a", "b"),
        "ranks": np.arange(12).reshape(6, 2),
        "draws": 20,
        "levels": np.array([0.5, 0.9]),
        "coverage": np.array([0.48, 0.91]),
        "tarp": np.array([0.51, 0.89]),
        "p_values": {"ranks a": 0.2},
        "gaps": {"coverage": 0.02},
        "of": "the amortised posterior",
        "fit": "abc",
        "simulations": "def",
        "failed_rows": 1,
        "state": "passed",
        "reasons": ("coverage within 2 points",),
    }
    return Calibration(**{**values, **changes})


def test_calibration_json_round_trip():
    calibration = a_calibration(reference={"features": torch.ones(3)})
    data = json.loads(json.dumps(calibration.to_json(), allow_nan=False))
    assert "reference" not in data
    back = Calibration.from_json(data, reference=calibration.reference)
    assert back.rows == 6
    for name in ("ranks", "levels", "coverage", "tarp"):
        np.testing.assert_array_equal(getattr(back, name), getattr(calibration, name))
        assert getattr(back, name).dtype == getattr(calibration, name).dtype
    for name in ("names", "draws", "p_values", "gaps", "of", "fit", "simulations", "failed_rows", "state", "reasons"):
        assert getattr(back, name) == getattr(calibration, name)
    assert torch.equal(back.reference["features"], torch.ones(3))
    assert Calibration.from_json(data).reference == {}


def an_answer(**changes) -> Answer:
    values = {
        "parameters": {
            "rate": Estimate(1.2345, 0.0567, 1.23, (1.1, 1.35), 0.9, "1/h"),
            "offset": Estimate(-12.3456, 2.5, -12.0, (-16.0, -8.0), 0.9, ""),
        },
        "draws": Draws(("rate", "offset"), ("1/h", ""), torch.zeros(1000, 2), torch.zeros(1000), -3.25, 0.01, 0.2),
        "calibration": a_calibration(),
        "trust": Trust(0.4, "looks like the simulations", "good"),
    }
    return Answer(**{**values, **changes})


def test_answer_json_says_everything():
    data = json.loads(json.dumps(an_answer(name="cell7", files={"cell7.csv": "ab"}).to_json(), allow_nan=False))
    assert data["observation"] == {"name": "cell7", "files": {"cell7.csv": "ab"}}
    assert data["parameters"]["rate"] == {
        "mean": 1.2345,
        "sd": 0.0567,
        "median": 1.23,
        "interval": [1.1, 1.35],
        "level": 0.9,
        "unit": "1/h",
    }
    assert data["draws"] == 1000
    assert data["ess"] == pytest.approx(1000)
    assert (data["log_evidence"], data["log_evidence_error"], data["pareto_k"]) == (-3.25, 0.01, 0.2)
    of = {"of": a_calibration().of, "fit": "abc", "simulations": "def", "rows": 6}
    passed = {
        "state": "passed",
        "passed": True,
        "cautious": False,
        "tails_alone": False,
        "reasons": ["coverage within 2 points"],
    }
    assert data["calibration"] == {**passed, **of}
    assert (data["verdict"], data["sentence"]) == ("good", an_answer().verdict.sentence)
    assert data["trust"] == {"p_value": 0.4, "verdict": "looks like the simulations", "level": "good"}
    assert Trust.from_json(data["trust"]) == an_answer().trust
    back = Estimate.from_json(data["parameters"]["rate"])
    assert back == an_answer().parameters["rate"]


def test_an_answer_without_calibration_has_not_passed():
    answer = an_answer(calibration=None)
    assert answer.to_json()["calibration"] == {
        "state": "not checked",
        "passed": False,
        "reasons": [NOT_CALIBRATED],
        "of": None,
        "fit": None,
    }
    assert "calibration  UNKNOWN: never checked" in replace(answer, draws=unweighted()).table()


def test_table_has_the_verdict_a_line_per_parameter_with_its_unit_and_what_was_found():
    answer = an_answer()
    first, empty, *lines = answer.table().splitlines()
    assert (first, empty) == (answer.verdict.sentence, "")
    assert lines[0].split("  ")[0] == "parameter"
    assert "90% interval" in lines[0]
    assert lines[2].split() == ["rate", "1/h", "1.23", "[1.10,", "1.35]", "1.234", "0.057"]
    assert lines[3].split() == ["offset", "-", "-12.0", "[-16.0,", "-8.0]", "-12.3", "2.5"]
    assert lines[-3:] == [
        "calibration  good: coverage within 2 points",
        "trust        good: looks like the simulations",
        "weights      good: 1,000 draws, weighted by the likelihood, are worth 1,000 (Pareto k 0.20)",
    ]
    assert "log evidence -3.25 +- 0.01; its constant is not confirmed" in lines


def unweighted() -> Draws:
    return Draws(("rate", "offset"), ("1/h", ""), torch.zeros(1000, 2), torch.zeros(1000))


def test_the_verdict_of_an_answer_is_of_its_draws_checks_calibration_and_observation():
    """Weights by the likelihood judge the answer; without them its calibration and its checks do."""
    off = a_calibration(state="not passed", reasons=("coverage is off",))
    checks = (Finding("prior bounds", Level.CAUTION, "near the edge"),)
    weighted, plain = an_answer(calibration=off), an_answer(calibration=off, draws=unweighted())
    assert [one.verdict.level for one in (weighted, plain)] == ["good", "alarm"]
    assert "calibration  weaker evidence: coverage is off" in weighted.table().splitlines()
    assert "calibration  WARNING: coverage is off" in plain.table().splitlines()
    assert replace(weighted, checks=checks).verdict.because == checks
    assert [one.name for one in replace(weighted, checks=checks).findings] == [
        "calibration", "trust", "weights", "prior bounds",
    ]  # fmt: skip
    assert an_answer(trust=Trust(0.001, "unlike", Level.ALARM)).verdict.level == "alarm"


@pytest.mark.parametrize(
    ("changes", "level", "line"),
    [
        ({}, "good", "good: coverage is off"),
        ({"state": "cannot tell"}, "unknown", "UNKNOWN: coverage is off"),
        ({"state": "not passed"}, "alarm", "WARNING: coverage is off"),
        ({"state": "not passed", "cautious": True}, "caution", "caution: coverage is off"),
    ],
)
def test_a_calibration_has_a_level(changes, level, line):
    calibration = a_calibration(reasons=("coverage is off",), **changes)
    assert calibration.level == level
    assert repr(calibration).endswith(f": {line}")
    assert f"calibration  {line}" in an_answer(calibration=calibration, draws=unweighted()).table().splitlines()


def test_table_shows_the_amortised_estimates_beside():
    answer = an_answer()
    lines = an_answer(amortised=answer.parameters).table().splitlines()[2:]
    assert lines[0].endswith("uncorrected median  90% interval")
    assert lines[2].split()[-3:] == ["1.23", "[1.10,", "1.35]"]


@pytest.mark.parametrize(
    ("mean", "sd", "expected"),
    [
        (1126259462.4321, 0.12, "1126259462.43"),
        (2.5e8, 3e7, "2.5e+08"),
        (1.2345e-9, 1e-10, "1.23e-09"),
        (0.0, 1e-9, "0"),
        (12345.6, 1000.0, "12346"),
        (5.0, math.nan, "5.000"),
        (math.nan, 1.0, "nan"),
    ],
)
def test_table_gives_two_digits_of_the_standard_deviation(mean, sd, expected):
    answer = an_answer(parameters={"t": Estimate(mean, sd, mean, (mean, mean), 0.9, "s")}, amortised={})
    assert answer.table().splitlines()[4].split()[-2] == expected


def test_table_rounds_each_figure_by_its_own_width():
    """One draw of 1e16 carries mean and sd, and none of the quantiles' digits."""
    answer = an_answer(parameters={"t": Estimate(8e5, 1e11, 1.32, (0.09, 8.7), 0.9, "s")}, amortised={})
    assert answer.table().splitlines()[4].split()[2:5] == ["1.3", "[0.1,", "8.7]"]


def test_a_calibration_of_another_posterior_is_not_passed_off_as_the_answers():
    """The reweighted posterior answers, and the amortised one was checked."""
    of = a_calibration().of
    line = f"calibration  good: of the {of} posterior: coverage within 2 points"
    assert line in an_answer(posterior=f"{of}, reweighted by the likelihood").table().splitlines()
    assert "calibration  good: coverage within 2 points" in an_answer(posterior=of).table().splitlines()
    none = an_answer(posterior=of, calibration=None, draws=unweighted()).table()
    assert "calibration  UNKNOWN: never checked" in none


def test_the_level_of_trust_is_what_tells():
    levels = {"good": "good", "caution": "caution", "alarm": "WARNING", "unknown": "UNKNOWN"}
    for level, word in levels.items():
        trust = Trust(0.02, "as it is", level)  # pyright: ignore[reportArgumentType]
        assert trust.alarm == (level == "alarm")
        assert f"trust        {word}: as it is" in an_answer(trust=trust).table().splitlines()
    with pytest.raises(ValueError, match="one of 'good', 'caution', 'unknown', 'alarm', got 'Alarm'"):
        Trust(0.02, "", "Alarm")  # pyright: ignore[reportArgumentType]


def test_answers_and_verdicts_are_shown_as_they_are_read():
    answer = an_answer()
    assert repr(answer) == str(answer) == answer.table()
    shown = repr(a_calibration(state="not passed", reasons=("coverage is off",)))
    assert re.fullmatch(r"calibration of the .* posterior on [\d,]+ simulations: WARNING: coverage is off", shown)
