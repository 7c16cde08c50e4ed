"""A question uses the simulator that the run remembers, where nothing speaks against it, and says why where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Result, call

from sciinf.campaigns.storage.own_mark import mark_of
from sciinf.core.code import mark
from sciinf.core.files import read_json, write_json
from sciinf.interfaces.commands.remembered import remembered


@pytest.fixture
def own(line_made: Path, tmp_path: Path) -> Path:
    """A run with a simulator's file of its own, which a test may damage."""
    folder = shutil.copytree(line_made, tmp_path / "line")
    (folder / "other.csv").write_text("x [m]\n0.3\n1.2\n2.1\n3.2\n3.8\n")
    _remember(folder, {"file": str(folder / "line.py")})
    return folder


def _remember(folder: Path, change: dict[str, str]) -> None:
    said = read_json(folder / "run/provenance.json")
    said["simulator"] = {"file": change["file"], "mark": change.get("mark") or mark_of(change["file"])}
    write_json(folder / "run/provenance.json", said)


def ask(folder: Path, *more: object) -> Result:
    return call("query", folder / "run", "--observation", folder / "other.csv", "--json", *more)


def notes(result: Result) -> list[str]:
    return [line for line in result.err.splitlines() if "no simulator is used" in line]


def checks(result: Result) -> set[str]:
    assert result.code == 0, result.err
    return {check["name"] for check in json.loads(result.out)["checks"]}


def test_infer_remembers_the_simulator_and_query_uses_it(line_made: Path, tmp_path: Path) -> None:
    said = read_json(line_made / "run/provenance.json")["simulator"]
    assert said["file"] == str(line_made / "line.py")
    asked = call("query", line_made / "run", "--observation", line_made / "seen.csv", "--json", "--out", tmp_path)
    assert "predictive" in checks(asked)
    assert notes(asked) == []
    assert {f.name for f in (tmp_path / "answers/seen").iterdir()} == {"answer.json", "draws.h5", "predictive.h5"}
    assert read_json(tmp_path / "provenance.json")["simulator"] == said
    kept = json.loads((line_made / "run/answers/seen/answer.json").read_text())
    assert json.loads(asked.out)["parameters"] == kept["parameters"]


def test_without_it_the_network_answers_alone(own: Path) -> None:
    before = (own / "run/provenance.json").read_text()
    asked = ask(own, "--without-simulator", "--out", own / "elsewhere")
    assert "predictive" not in checks(asked)
    assert notes(asked) == []
    assert (own / "run/provenance.json").read_text() == before
    assert not (own / "run/answers/other").exists()
    assert (own / "elsewhere/answers/other/answer.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("changed", "line.py has changed since this run was made"),
        ("gone", "line.py, which this run was made with, is not there"),
        ("broken", "line.py has changed since this run was made"),
        ("other prior", "observables has changed|line.py has changed"),
        ("forgotten", "this run remembers none"),
        ("damaged", "provenance.json is damaged"),
        ("slow", "would take about"),
    ],
)
def test_a_simulator_that_is_not_used(own: Path, fault: str, why: str) -> None:
    file = own / "line.py"
    if fault in ("changed", "broken", "other prior"):
        plant = {"changed": "zero = 0\n", "broken": "def (\n", "other prior": "simulator.name = 'b'\n"}[fault]
        file.write_text(file.read_text() + plant)
    elif fault == "gone":
        file.unlink()
    elif fault == "damaged":
        (own / "run/provenance.json").write_text((own / "run/provenance.json").read_text()[:-20])
    elif fault == "forgotten":
        said = read_json(own / "run/provenance.json")
        write_json(own / "run/provenance.json", {k: v for k, v in said.items() if k != "simulator"})
    else:
        for journal in (own / "run/simulations/journal").iterdir():
            lines = [json.loads(line) for line in journal.read_text().splitlines()]
            slow = [{k: v for k, v in line.items() if k != "sha256_of_the_rest"} | {"seconds": 1e3} for line in lines]
            journal.write_text("".join(json.dumps(line) + "\n" for line in slow))
    asked = ask(own)
    assert "predictive" not in checks(asked)
    (note,) = notes(asked)
    assert any(part in note for part in why.split("|")), note
    assert note.endswith("where a change does not touch what it simulates")


def test_a_comment_is_no_change(own: Path) -> None:
    (own / "line.py").write_text((own / "line.py").read_text() + "# a remark\n")
    simulator, why = remembered(own / "run", accept_changes=False)
    assert (simulator is not None, why) == (True, "")


@pytest.mark.slow
def test_what_a_simulator_prints_is_no_part_of_the_answer(own: Path) -> None:
    text = (own / "line.py").read_text()
    (own / "line.py").write_text(text.replace("    return offset", "    print('noise')\n    return offset"))
    asked = ask(own, "--accept-changes")
    assert "predictive" in checks(asked)
    assert "noise" in asked.err


@pytest.mark.slow
def test_no_code_is_run_because_a_folder_names_it(own: Path) -> None:
    """A folder of somebody else may name any file; it has no mark of this user's key."""
    trap = own / "trap.py"
    trap.write_text((own / "line.py").read_text() + f"open({str(own / 'sprung')!r}, 'w').close()\n")
    fit = read_json(own / "run/fit/fit.json")
    fit["simulator"]["source"] = mark(trap)
    write_json(own / "run/fit/fit.json", fit)
    _remember(own, {"file": str(trap), "mark": read_json(own / "run/provenance.json")["simulator"]["mark"]})
    (note,) = notes(ask(own))
    assert "trap.py, but was not made by you on this computer" in note
    assert not (own / "sprung").exists()
    _remember(own, {"file": str(trap)})  # the plant: with the mark it is run
    remembered(own / "run", accept_changes=False)
    assert (own / "sprung").exists()
