"""Derived quantities and labels through the commands: nothing is simulated or trained again because of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from command_line import call
from trainings import FILES

from sciinf import load_answer
from sciinf.campaigns import Store
from sciinf.core.files import read_json

DERIVED = """
simulator.derived = {"end": (lambda theta: theta["offset"] + 4.0 * theta["slope"], "m")}
simulator.labels = {"slope": "speed", "end": "place after 4 s"}
"""


@pytest.mark.slow
def test_they_come_to_a_run_that_is_there(line: Path) -> None:
    run, code = line / "run", (line / "line.py").read_text()
    before = {name: (run / "fit" / name).read_bytes() for name in FILES}
    (line / "line.py").write_text(code + DERIVED)
    (line / "other.csv").write_text("x [m]\n0.4\n0.4\n0.9\n0.2\n0.8\n")
    words = ["--observation", line / "seen.csv", "--out", run, "-n", 300, "--calibration", 300]
    result = call("infer", line / "line.py", *words)
    assert result.code == 0, result.err
    assert {name: (run / "fit" / name).read_bytes() for name in FILES} == before
    answer = load_answer(run)
    assert list(answer.parameters) == ["slope", "offset", "end"]
    assert "end (derived)  place after 4 s  m " in result.out
    theta = answer.draws.theta
    assert float((theta[:, 2] - theta[:, 1] - 4 * theta[:, 0]).abs().max()) < 1e-5
    assert read_json(run / "answers/seen/answer.json")["parameters"]["slope"]["label"] == "speed"
    page = (run / "report.html").read_text()
    assert '<th scope="row">place after 4 s (derived) <code class="own">end</code></th>' in page
    assert '<th scope="row">end (derived)</th><td>place after 4 s</td>' in page  # among all numbers
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])["answers"][0]
    assert len(data["from"]) > 20  # what is selected by a derived quantity is found among what was predicted
    assert all(abs(end - offset - 4 * slope) < 0.05 for slope, offset, end in data["from"] + data["draws"])
    (line / "line.py").write_text(code + DERIVED.replace("4.0 *", "5.0 *").replace("speed", "velocity"))
    several = call("query", run, "--observation", line / "seen.csv", line / "other.csv")
    assert several.out.count("end (derived)") == 2
    again = load_answer(run, name="seen")
    assert again.parameters["slope"].label == "velocity"
    assert torch.equal(again.draws.theta[:, :2], theta[:, :2])
    assert float((again.draws.theta[:, 2] - theta[:, 1] - 5 * theta[:, 0]).abs().max()) < 1e-5


def test_a_fault_is_said_before_hours_are_spent(line: Path) -> None:
    file = line / "line.py"
    file.write_text(file.read_text() + 'simulator.derived = {"slope": lambda theta: theta["offset"]}\n')
    result = call("infer", file, "--observation", line / "seen.csv", "--out", line / "new", "-n", 300)
    assert "the name 'slope' of a derived quantity is a parameter's; give it another" in result.error
    assert not (line / "new" / "simulations").exists()
    rows = len(Store(line / "run" / "simulations"))
    more = call("infer", file, "--observation", line / "seen.csv", "--out", line / "run", "-n", rows + 1)
    assert "the name 'slope' of a derived quantity is a parameter's; give it another" in more.error
    assert len(Store(line / "run" / "simulations")) == rows
    checked = call("check", file)
    assert checked.code == 3
    assert "WARNING         the name 'slope' of a derived quantity is a parameter's" in checked.out
