"""`infer` in Python is the command: the same files, the same answer, the same words with Python's names."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from brief import briefly_trained

from sciinf import infer, load_simulator
from sciinf.core import observe
from sciinf.core.files import read_json
from sciinf.interfaces.commands import steps, workflow
from sciinf.interfaces.commands.caller import CommandLine, PythonCall
from sciinf.interfaces.commands.infer_options import InferOptions
from sciinf.interfaces.commands.until_calibrated import SimulationPlan

MADE = ("simulations", "calibration_simulations", "fit", "answers", "calibration.json", "reference.safetensors")
SEEN = [0.2, 1.4, 1.9, 3.2, 3.8]


def made(run: Path) -> dict[str, tuple[int, str]]:
    """Time and hash of all that takes long to make."""
    files = [file for file in run.rglob("*") if file.is_file() and file.relative_to(run).parts[0] in MADE]
    return {str(f): (f.stat().st_mtime_ns, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files}


def test_infer_finds_all_that_the_command_made_and_gives_its_answer(line: Path, capsys: Any) -> None:
    before, said = made(line / "run"), read_json(line / "run/answers/seen/answer.json")
    answer = infer(line / "line.py", line / "seen.csv", n=300, calibration=300, out=line / "run", name=None)
    assert made(line / "run") == before
    assert answer.to_json() == {name: said[name] for name in answer.to_json()}
    about = read_json(line / "run/provenance.json")
    assert about["command"].startswith("infer(simulator='")
    assert about["command"].endswith("line/run', calibration=300)")
    assert [one["command"][:6] for one in about["history"]] == ["sciinf", "infer("]
    out, err = capsys.readouterr()
    assert "read x: 5 values, in m" in err
    assert "report.html" in err
    assert out == "", "the answer is returned, and not printed as well"


def test_observations_that_were_read_simulators_and_silence(line: Path, capsys: Any) -> None:
    """The same question in other words is the same, and has the answer that is there; nothing is said."""
    simulator, run = load_simulator(line / "line.py"), line / "run"
    before, x = made(run), observe(simulator, line / "seen.csv")
    answer = infer(simulator, x, n=300, calibration=300, out=run, progress=False, name="seen")
    assert (answer.name, answer.read) == ("seen", ("x: 5 values, in m",))
    assert made(run) == before
    assert capsys.readouterr() == ("", "")
    assert read_json(run / "provenance.json")["command"].startswith("infer(simulator=track, observation=..., n=300")


@pytest.mark.parametrize("observation", [SEEN, {"x": np.array(SEEN)}, {"x": [np.array(SEEN)]}, {"x": SEEN * units.m}])
def test_observations_may_be_arrays(observation: Any, line: Path) -> None:
    asked = workflow._asked(load_simulator(line / "line.py"), observation, None)
    assert (asked.name, asked.files, asked.x["x"].tolist()) == ("observation", (), np.array(SEEN, np.float32).tolist())
    assert asked.x.read == ()


def test_columns_may_have_other_names(line: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("height [cm]\n" + "\n".join(str(100 * value) for value in SEEN))
    simulator = load_simulator(line / "line.py")
    asked = workflow._asked(simulator, tmp_path / "other.csv", None, {"x": "height"})
    assert (asked.name, asked.x["x"].tolist()) == ("other", pytest.approx(SEEN))


@pytest.mark.slow
@briefly_trained(20)
def test_each_step_says_how_it_goes_unless_it_is_not_to(line: Path, tmp_path: Path, capsys: Any) -> None:
    simulator = load_simulator(line / "line.py")
    for shown in (True, False):
        how = InferOptions(n=100, seed=5, progress=shown)
        steps.attempt(simulator, tmp_path / str(shown), how, SimulationPlan(100, 100))
        said = capsys.readouterr().err
        heard = [words in said for words in ("100 of 100 simulations,", "training  epoch", "simulations calibrated on")]
        assert heard == [shown] * 3
    assert said == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": 99}, "n must be an integer of at least 100, got 99"),
        ({"calibration": 5}, "calibration must be an integer of at least 100"),
        ({"workers": None}, "workers must be an integer"),
        ({"refine": "on"}, "refine is one of 'auto', 'off', got 'on'"),
        ({"failures": "drop"}, "failures is one of 'exclude'"),
        ({"level": 90}, "level is a number above 0 and below 1, got 90"),
        ({"estimator": "flaw"}, "there is no estimator 'flaw'; did you mean flow"),
        ({"estimator": 3}, "estimator is the name of one, such as 'flow', or one that was built, got int"),
        ({"accept_changes": "no"}, "accept_changes is True or False, got 'no'"),
        ({"until_calibrated": 1}, "until_calibrated is True or False, got 1"),
        ({"ess": True}, "ess is a number above 0, got True"),
        ({"device": "cuda:99"}, "there is no device 'cuda:99'"),
        ({"name": ".."}, "name names a folder"),
        ({"observation": {"y": SEEN}}, "the observation has .'y'., the simulator has 'x'"),
        ({"observation": ["seen.csv", "seen.csv"]}, "given twice"),
        ({"simulator": print}, "infer takes a Simulator or the path of its file"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_made(
    given: dict[str, Any], words: str, line: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {
        "simulator": line / "line.py",
        "observation": SEEN,
        "n": 300,
        "out": tmp_path / "out",
        **given,
    }
    with pytest.raises((ValueError, TypeError), match=words):
        infer(**{**asked, **given})
    assert not (tmp_path / "out").exists()


def test_the_files_of_several_observations_are_not_one(line: Path, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text((line / "seen.csv").read_text())
    with pytest.raises(ValueError, match="the 2 files hold an observation each; give infer one of them"):
        infer(line / "line.py", [line / "seen.csv", tmp_path / "more.csv"], n=300, out=tmp_path / "out")


def test_each_caller_is_told_the_next_step_in_its_own_words(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["sciinf", "infer", "a b.py", "-n", "100", "--refine=off"])
    more: dict[str, object] = {"-n": 200, "--calibration": 500, "--refine": "auto"}
    assert CommandLine().again(more) == "sciinf infer 'a b.py' -n 200 --refine auto --calibration 500"
    call = PythonCall({"simulator": "'a.py'", "n": "100"}, shown=False)
    assert call.again(more) == "infer(..., n=200, calibration=500, refine='auto')"
    assert call.asked == "infer(simulator='a.py', n=100)"
    call.say("nothing")
    assert capsys.readouterr().err == ""
