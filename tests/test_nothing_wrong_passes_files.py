"""Nothing wrong passes as right, item 7: files that were changed are not believed, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import call

from sciinf.core.files import SEAL


def change(file: Path, pattern: str, new: str) -> None:
    """Put something else in place of the first match."""
    text, count = re.subn(pattern, new, file.read_text(), count=1)
    assert count == 1
    file.write_text(text)


@pytest.mark.slow
def test_a_digit_changed_in_the_answer_is_noticed_and_the_answer_made_anew(line: Path) -> None:
    words = ["query", line / "run", "--observation", line / "seen.csv", "--json"]
    before = call(*words)
    assert before.code == 0, before.err
    [answer] = line.glob("run/**/answer.json")
    change(answer, r'"mean": (-?\d)\.', r'"mean": 1\1.')
    call("report", line / "run")
    assert "answer.json could not be read" in (line / "run/report.html").read_text()
    after = call(*words)
    assert "answer.json is damaged, or was edited by hand" in after.err
    assert json.loads(after.out)["parameters"] == json.loads(before.out)["parameters"]
    assert json.loads(answer.read_text())["parameters"] == json.loads(before.out)["parameters"]


def test_a_changed_seed_does_not_let_a_fit_be_calibrated_on_what_it_was_trained_on(line: Path) -> None:
    shutil.rmtree(line / "run/calibration_simulations")
    file = line / "run/fit/fit.json"
    data = json.loads(file.read_text())
    data["store"]["seed"] = -1  # so that calibrate would take seed 0
    file.write_text(json.dumps(data))
    for words in (["calibrate", line / "line.py", line / "run", "-n", 100], ["query", line / "run"]):
        given = ["--observation", line / "seen.csv"] if words[0] == "query" else []
        assert "fit.json is damaged, or was edited by hand" in call(*words, *given).error


@pytest.mark.parametrize(
    ("file", "pattern", "new"),
    [
        ("calibration.json", r'"draws": 127', '"draws": 255'),
        ("calibration.json", r'("rank of slope": 0\.)\d', r"\g<1>77"),
        ("fit/history.csv", r"\n0,(-?)\d", r"\n0,\g<1>9"),
        ("provenance.json", r'"seed": 0', '"seed": 1'),
        ("simulations/store.json", r'"rows": 300', '"rows": 200'),
    ],
)
def test_the_report_names_what_was_changed(line: Path, file: str, pattern: str, new: str) -> None:
    change(line / "run" / file, pattern, new)
    call("report", line / "run")
    page = (line / "run/report.html").read_text()
    assert f"Not read, or not to be checked: {file} could not be read" in page
    result = call("query", line / "run", "--observation", line / "seen.csv")
    assert file == "fit/history.csv" or file in result.err  # nothing but the report reads the history


def test_a_changed_line_of_a_journal_is_named_and_taken_out(line: Path) -> None:
    [journal] = (line / "run/simulations/journal").iterdir()
    change(journal, r'"rows": \d', '"rows": 9')
    found = call("check", line / "run/simulations")
    assert found.code == 3
    assert f"line 1 of {journal}" in found.out
    mended = call("check", line / "run/simulations", "--repair", line / "line.py")
    assert mended.code == 0, mended.out + mended.err
    assert call("check", line / "run/simulations").err == ""


def test_taking_the_hash_off_is_not_silent(line: Path) -> None:
    change(line / "run/fit/fit.json", rf',\s*"{SEAL}": "\w+"', "")
    result = call("query", line / "run", "--observation", line / "seen.csv")
    assert result.code == 0
    assert "fit.json carries no hash" in result.err
    call("report", line / "run")
    assert "fit.json carries no hash" in (line / "run/report.html").read_text()
