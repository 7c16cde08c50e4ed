"""What is said: on which stream, how much of it, and all of it in the log of the run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from sciinf import infer
from sciinf.core import telling

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00  "


def asked(line: Path) -> list[object]:
    """The command that made `line / "run"`, which then has nothing left to do."""
    rest = ["--observation", line / "seen.csv", "--out", line / "run", "-n", 300, "--calibration", 300]
    return ["infer", line / "line.py", *rest]


def test_the_log_has_all_that_was_said_and_each_command_adds_to_it(line: Path) -> None:
    log = line / "run" / "log.txt"
    before = log.read_text()
    assert all(re.match(STAMP, one) for one in before.splitlines())
    made = [one[27:] for one in before.splitlines()]
    assert made[0].startswith("$ sciinf infer ")
    assert "read x: 5 values, in m" in made, "what was said before there was a folder"
    assert any(one.startswith("300 of 300 simulations, ") for one in made)
    assert any(one.startswith("training  epoch") for one in made)
    assert any(one.startswith("slope ") for one in made), "the answer"
    result = call(*asked(line))
    added = log.read_text().removeprefix(before)
    assert added.count("$ sciinf infer") == 1
    words = [one[27:].strip() for one in added.splitlines()]
    assert all(one.strip() in words for one in (result.err + result.out).splitlines())


@pytest.mark.slow
def test_q_says_only_the_answer_and_v_more_than_all(line: Path) -> None:
    """Before the command and behind it; the log has the same each time."""
    log, said, logs = line / "run" / "log.txt", [], []
    for words in (asked(line), ["-q", *asked(line)], [*asked(line), "-q"], [*asked(line), "-v"]):
        log.unlink()
        said.append(call(*words))
        logs.append([one[27:] for one in log.read_text().splitlines() if " infer " not in one])
    plain, before, behind, loud = said
    assert [one.code for one in said] == [0, 0, 0, 0]
    assert plain.out == before.out == behind.out == loud.out
    assert "read x: 5 values" in plain.err
    assert (before.err, behind.err) == ("", "")
    assert "torch 2" in loud.err
    assert "torch 2" not in plain.err
    assert logs[0] == logs[1] == logs[2] == logs[3], "whatever the terminal leaves out"
    missing = call("-q", "infer", line / "none.py", *asked(line)[2:])
    assert missing.error.startswith("sciinf: error: no simulator at"), "errors are said"
    assert telling.shown(telling.NOTE), "the next command begins as ever"


def test_errors_and_warnings_are_in_the_log_with_what_led_to_them(line: Path) -> None:
    log = line / "run" / "log.txt"
    log.unlink()
    (line / "odd.csv").write_text("x\n9\n-9\n9\n-9\n9\n")
    result = call("query", line / "run", "--observation", line / "odd.csv", "--without-simulator")
    assert "warning: " in result.err
    assert "warning: " in log.read_text()
    assert call("query", line / "run", "--observation", line / "none.csv").code == 2
    assert "sciinf: error: no observation file at" in log.read_text()
    assert "Traceback (most recent call last):" in log.read_text()


def test_a_call_in_python_keeps_a_log_too_however_silent(line: Path, capsys: Any) -> None:
    log = line / "run" / "log.txt"
    log.unlink()
    simulator, data = line / "line.py", line / "seen.csv"
    infer(simulator, data, n=300, calibration=300, out=line / "run", progress=False)
    assert capsys.readouterr() == ("", "")
    words = log.read_text()
    assert "$ infer(simulator=" in words
    assert "read x: 5 values, in m" in words
    assert "slope " in words


def test_a_log_that_cannot_be_written_is_no_reason_to_lose_a_run(line: Path) -> None:
    log = line / "run" / "log.txt"
    log.unlink()
    log.mkdir()
    result = call(*asked(line))
    assert result.code == 0, result.err
    assert result.err.count(f"note: the log {log} cannot be written") == 1


def test_a_log_within_another_writes_nothing_twice(tmp_path: Path, capsys: Any) -> None:
    with telling.logged("outer", command=True):
        telling.keep_log(tmp_path / "none")
        telling.keep_log(tmp_path)
        with telling.logged("inner", command=False):
            telling.keep_log(tmp_path)
            telling.tell("once\ntwice")
    assert [one[27:] for one in (tmp_path / telling.FILE).read_text().splitlines()] == ["$ outer", "once", "twice"]
    telling.tell("afterwards")
    assert "afterwards" not in (tmp_path / telling.FILE).read_text()
    assert capsys.readouterr() == ("", "once\ntwice\nafterwards\n")


def test_pythons_warnings_stay_pythons_outside_of_commands(tmp_path: Path, capsys: Any) -> None:
    before = warnings.showwarning
    with pytest.warns(UserWarning, match="beware"):
        _warning_in_a_call(tmp_path)
    assert "warning: beware" in (tmp_path / telling.FILE).read_text()
    assert warnings.showwarning is before
    assert capsys.readouterr().err == ""


def _warning_in_a_call(folder: Path) -> None:
    with telling.logged("call", command=False):
        telling.keep_log(folder)
        warnings.warn("beware", stacklevel=1)


def test_one_of_several_processes_is_hushed_but_for_errors(capsys, tmp_path):
    with telling.logged("command", command=True):
        telling.keep_log(tmp_path)
        with telling.hushed():
            telling.tell("a note")
            telling.tell("an answer", telling.ANSWER)
            warnings.warn("a warning", stacklevel=1)
            telling.tell("an error", telling.ERROR)
        telling.tell("heard again")
    assert capsys.readouterr() == ("", "an error\nheard again\n")
    assert [one[27:] for one in (tmp_path / telling.FILE).read_text().splitlines()] == ["$ command", "heard again"]
