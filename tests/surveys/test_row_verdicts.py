"""The verdict on each row of a survey: from the levels that blocks keep, as that of a single answer."""

from __future__ import annotations

import numpy as np
import pytest

from sciinf import build_posterior, query, query_all
from sciinf.core.findings import Finding, Level
from sciinf.interfaces.surveys.drawing import row_seed
from sciinf.interfaces.surveys.verdicts import LEVELS, RowVerdicts

PASSED = {"state": "passed", "passed": True, "reasons": ["all agree"], "of": "amortised", "fit": "f"}
OFF = {**PASSED, "state": "not passed", "passed": False, "reasons": ["coverage is off"]}
WEIGHTED = "amortised, reweighted by the likelihood"


def judge(calibration=PASSED, posterior="amortised", checks=(), trust=LEVELS) -> RowVerdicts:
    codes = {"trust": list(trust), "checks": list(LEVELS)}
    return RowVerdicts(
        {"calibration": calibration, "posterior": posterior, "checks": checks, "draws": 2_000, "codes": codes}
    )


@pytest.mark.parametrize(
    ("calibration", "trust", "checks", "k", "level"),
    [
        (PASSED, "good", "good", None, "caution"),  # a row is not looked at for errors of the network
        (OFF, "good", "good", None, "alarm"),
        (PASSED, "caution", "good", None, "caution"),
        (PASSED, "alarm", "good", None, "alarm"),
        (PASSED, "good", "alarm", None, "alarm"),
        (PASSED, "good", "unknown", None, "caution"),
        (PASSED, "unknown", "good", None, "caution"),
        (OFF, "good", "good", 0.2, "good"),  # weights by the likelihood judge the row
        (OFF, "good", "caution", 0.2, "caution"),
        (OFF, "alarm", "good", 0.2, "alarm"),
        (PASSED, "good", "good", 0.9, "alarm"),
    ],
)
def test_a_row_is_judged_as_an_answer(calibration, trust, checks, k, level) -> None:
    verdicts = judge(calibration, "amortised" if k is None else WEIGHTED)
    assert verdicts.verdict(trust, checks, 1_500.0, k).level == level
    columns = {
        "trust": np.array([LEVELS.index(trust), LEVELS.index("none")]),
        "checks": np.array([LEVELS.index(checks)] * 2),
        "ess": np.full(2, 1_500.0, np.float32),
        "pareto_k": np.full(2, np.nan if k is None else k, np.float32),
    }
    assert verdicts.levels(columns).tolist() == [level, "none"]


def test_findings_of_all_rows_count_for_each() -> None:
    few = Finding("few draws", Level.CAUTION, "an effective size of 50").to_json()
    verdict = judge(OFF, WEIGHTED, [few]).verdict("good", "good", 1_500.0, 0.2)
    assert (verdict.level, [one.name for one in verdict.because]) == ("caution", ["few draws"])


def test_the_column_has_the_level_of_each_rows_own_verdict_also_beside_a_limit() -> None:
    """Pareto's k and the effective size as blocks keep them; .66 and 399.7 are no .7 and no 400."""
    verdicts = judge(OFF, WEIGHTED)
    k = np.array([-0.3, 0.2, 0.64, 0.66, 0.69, 0.7, 0.74, 3.0, np.inf], np.float32).repeat(5)
    ess = np.tile(np.array([3.0, 399.4, 399.7, 400.0, 1_999.0], np.float32), 9)
    good = np.zeros(45, dtype=np.uint8)
    found = verdicts.levels({"trust": good, "checks": good, "ess": ess, "pareto_k": k})
    each = [verdicts.verdict("good", "good", float(a), float(b)).level for a, b in zip(ess, k, strict=True)]
    assert found.tolist() == each
    assert set(each) == {"good", "caution", "alarm"}


def test_unusual_rows_of_earlier_folders_are_a_caution() -> None:
    earlier = judge(OFF, WEIGHTED, trust=("good", "unusual", "alarm", "unknown", "none"))
    columns = {"trust": np.arange(5), "checks": np.zeros(5), "ess": np.full(5, 2e3), "pareto_k": np.full(5, 0.2)}
    assert earlier.levels(columns).tolist() == ["good", "caution", "alarm", "caution", "none"]
    assert len(earlier.levels({name: values[:0] for name, values in columns.items()})) == 0


def test_a_survey_has_verdicts(ball, tmp_path) -> None:
    found = query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, draws=400, progress=False)
    column = found.column("verdict")
    answered = found.column("status") == "answered"
    assert set(column[~answered]) == {"none"}
    assert set(column[answered]) <= {*map(str, Level)}
    for row in (0, *np.flatnonzero(answered & (found.column("trust") != "good"))[:3]):
        assert found.verdict(int(row)).level == column[row]
    assert found.found["verdicts"] == {str(level): int((column == level).sum()) for level in Level}
    assert f"{answered.sum()} of 300" in found.summary()
    assert found.to_dataframe()["verdict"].tolist() == column.tolist()
    with pytest.raises(ValueError, match="row 3 has no answer: the simulation raised"):
        found.verdict(3)


@pytest.mark.slow
def test_rows_that_a_likelihood_weights_are_relied_on_as_single_answers_are(ball, tmp_path) -> None:
    exact = build_posterior(ball.fit, ball.simulator, ess=500)
    x = ball.store.load().x["x"][:3]
    found = query_all(exact, {"x": x}, tmp_path / "a", ball.calibration, draws=600, progress=False)
    for row in range(3):
        answer = query(exact, {"x": x[row]}, ball.calibration, draws=600, seed=row_seed(0, row))
        assert found.column("verdict")[row] == answer.verdict.level
        assert found.verdict(row).evidence == answer.verdict.evidence
