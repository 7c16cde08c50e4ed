"""What a simulator's `observe` takes as keywords are options of the commands that read data."""

from __future__ import annotations

from pathlib import Path

import pytest
from brief import briefly_trained
from command_line import call

from sciinf import infer, load_simulator
from sciinf.core import observe

WRAPPED = '''
import numpy as np
from sciinf import Normal, Observable, Prior, wrappers

def read(path, *, first: int, scale: float = 1, log: bool = False):
    """Numbers of a table.

    Args:
        first: Row to begin with.
        scale: What to multiply by.
    """
    if log:
        raise ValueError(f"got {path}, {first!r}, {scale!r}, {log!r}")
    return {"x": scale * np.loadtxt(path)[first : first + 3]}

def line(a, rng):
    return a + rng.normal(size=3)

simulator = wrappers.numpy(line, Prior(a=Normal(0.0, 1.0)), {"x": Observable((3,))}, observe=read)
'''
OWN = """
import torch
from sciinf import Normal, Observable, Prior, Simulator

class Line(Simulator):
    name, prior, observables = "line", Prior(a=Normal(0.0, 1.0)), {"x": Observable((3,))}

    def __call__(self, theta, *, generator):
        return {"x": theta + torch.randn(len(theta), 3, generator=generator)}

    def observe(self, *paths, start_time: float | None = None):
        raise ValueError(f"got {paths}, {start_time!r}")

simulator = Line()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrapped.py").write_text(WRAPPED)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "t.txt").write_text("1\n2\n3\n4\n")
    return tmp_path


def test_options_reach_the_reader_in_their_types(folder: Path) -> None:
    seen = ["--observation", "t.txt"]
    assert (
        "got t.txt, 1, 2.0, True" in call("check", "wrapped.py", "--scale=2", *seen, "--log", "yes", "--first", 1).error
    )
    infer = ["infer", "--start-time", "-2.5", "own.py", *seen, "u.txt", "--out", "run", "-n", "100"]
    assert "together (got ('t.txt', 'u.txt'), -2.5)" in call(*infer).error
    assert call("check", "wrapped.py").code == 0  # no data are read, so nothing is needed for it
    again = call("check", "wrapped.py", *seen, "--first", "1")
    assert again.code == 0
    assert "read            x: 3 values, by the simulator's own observe" in again.out
    found = observe(load_simulator("wrapped.py"), "t.txt", options={"first": 1, "scale": 2.0})
    assert found["x"].tolist() == [4.0, 6.0, 8.0]


def test_what_is_wrong_with_them_is_said_before_anything_runs(folder: Path) -> None:
    def error(*words: object) -> str:
        result = call(*words)
        assert result.code == 2
        assert not (folder / "run").exists()
        return result.err

    seen, make = ("--observation", "t.txt"), ("--out", "run", "-n", "100")
    assert "there is no option --scal; did you mean --scale?" in error("infer", "wrapped.py", *seen, *make, "--scal", 2)
    assert "there is no option --start_tim; did you mean --start-time?" in error("check", "own.py", "--start_tim", 2)
    assert "wrapped.py needs --first INTEGER to read data. Row to begin with." in error("check", "wrapped.py", *seen)
    assert "--first takes a int, got 'one'" in error("check", "wrapped.py", *seen, "--first", "one")
    assert "--first needs a value" in error("check", "wrapped.py", "--first", *seen)
    # A mistyped option of the command is told as before, whatever follows it and whatever is missing then.
    assert "no option --observations; did you mean --observation?" in error(
        "infer", "own.py", "--observations", "t.txt", *make
    )
    assert "did you mean --until-calibrated?" in error("infer", "--until-calibrate", "own.py", *seen, *make)
    assert "did you mean --until-calibrated?" in error(
        "infer", "own.py", "--until-calibrate", "-n", "100", *seen, *make[:2]
    )
    assert "did you mean --workers?" in error("infer", "own.py", *seen, *make, "--worker", 4)
    assert "Missing option '--out'" in error("infer", "own.py", *seen, "-n", "100", "--start-time", 2)


NAMED = WRAPPED.replace("scale: float", "level: float").replace("scale *", "level *").replace("{scale!r}", "")


def test_a_keyword_that_no_option_can_give_is_refused_at_once(folder: Path) -> None:
    (folder / "named.py").write_text(NAMED)
    for words in (["check"], ["infer", "--observation", "t.txt", "--out", "run", "-n", 100]):
        said = call(words[0], "named.py", *words[1:]).error
        assert "the keyword 'level', which no option can give: --level is one of `sciinf" in said
        assert "another name, such as level_of_data" in said
    assert not (folder / "run").exists()


@pytest.mark.slow
@briefly_trained(20)
def test_a_question_reads_as_the_run_did(folder: Path) -> None:
    """In Python the options are a mapping; `query` takes those of the run and says so, or what is given."""
    with pytest.raises(ValueError, match="takes no 'firsst', it takes first, scale, log; did you mean 'first'"):
        infer("wrapped.py", "t.txt", n=100, out="run", options={"firsst": 1})
    with pytest.raises(ValueError, match="given as data: leave out first"):
        infer("wrapped.py", [1.0, 2.0, 3.0], n=100, out="run", options={"first": 1})
    answer = infer("wrapped.py", "t.txt", n=100, out="run", refine="off", options={"first": 1, "scale": 0.5})
    assert answer.observation["x"].tolist() == [1.0, 1.5, 2.0]
    assert "by the simulator's own observe (first=1, scale=0.5)" in answer.table()
    again = call("query", "run", "--observation", "t.txt")
    assert "note: read with --first 1 --scale 0.5, as the run was" in again.err
    assert "(first=1, scale=0.5)" in again.out
    other = call("query", "run", "--observation", "t.txt", "--first", 0)
    assert "note: read with --scale 0.5, as the run was" in other.err
    assert "(scale=0.5, first=0)" in other.out


def test_without_a_simulator_there_are_none(line: Path) -> None:
    result = call("query", line / "run", "--observation", line / "seen.csv", "--without-simulator", "--gps", 5)
    assert result.code == 2
    assert "no option --gps without a simulator" in result.err


def test_help_lists_them(folder: Path) -> None:
    said = call("infer", "wrapped.py", "--help").out
    assert "Options of wrapped.py, for reading data" in said
    assert "--first INTEGER" in said
    assert "What to multiply by.  [default: 1]" in said
    assert "for reading data" not in call("infer", "--help").out
