"""With `--strict` a command ends with another exit status than 0 where an answer is not to be relied on."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import call
from visits import make_runs

ODD = "x [m]\n90.0\n-90.0\n90.0\n-90.0\n90.0\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("strict")) / "line"


def test_a_query_ends_with_4_where_the_verdict_is_do_not_rely(run: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text(ODD)
    words = ("query", run, "--without-simulator", "--observation", tmp_path / "odd.csv")
    plain, strict = call(*words), call(*words, "--strict")
    assert (plain.code, strict.code) == (0, 4)
    assert strict.out.startswith("Do not rely on this answer: ")
    assert strict.out == plain.out


@pytest.mark.slow
def test_a_survey_does_where_a_row_is_not_to_be_relied_on(run: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text(ODD)
    store = run / "calibration_simulations"
    codes = [
        call("query", run, "--observations", store, "--out", tmp_path / "s", *more).code for more in ((), ("--strict",))
    ]
    assert codes == [0, 4], "of 1,000 rows of the prior some are unlike the others by chance"
