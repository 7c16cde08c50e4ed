"""`sciinf serve`: what each run is opened with, and a service that begins and ends as a command."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import call

from sciinf.interfaces.commands.serve import ServeOptions, source_of

OPTIONS = ServeOptions()


def test_the_simulator_is_the_one_that_a_question_would_use(line: Path, line_made: Path) -> None:
    run, there = line / "run", line_made / "line.py"
    own, named = source_of(str(run), OPTIONS), source_of(str(run), replace(OPTIONS, simulator=str(line / "line.py")))
    assert (own.simulator, own.without) == (str(there), "")  # the one that the run remembers
    said = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**said, "simulator": {"file": str(there), "mark": "0"}}))
    foreign = source_of(str(run), OPTIONS)
    assert foreign.simulator == ""
    assert foreign.without
    assert (named.simulator, named.without) == (str(line / "line.py"), "")
    left = source_of(str(run), replace(OPTIONS, without_simulator=True))
    assert (left.simulator, left.without) == ("", "it was left out")
    assert source_of(str(run / "fit"), OPTIONS).name == "run"


def test_another_simulator_is_refused(line: Path) -> None:
    text = (line / "line.py").read_text().replace("Normal(0.0, 1.0)", "Normal(0.0, 2.0)")
    (line / "other.py").write_text(text)
    found = call("serve", line / "run", "--simulator", line / "other.py", "--port", "0")
    assert found.code == 2
    assert "the fit in" in found.error


def test_what_cannot_be_served_is_said(line: Path, tmp_path: Path) -> None:
    shutil.copytree(line / "run", tmp_path / "b" / "run")
    twice = call("serve", line / "run", tmp_path / "b" / "run", "--port", "0")
    assert (twice.code, "two runs are called 'run'" in twice.error) == (2, True)
    none = call("serve", tmp_path / "none", "--port", "0")
    assert (none.code, "there is no run folder" in none.error) == (2, True)
    (line / "run" / "fit" / "model.safetensors").write_bytes(b"damaged")
    assert call("serve", line / "run", "--port", "0").code == 2


@pytest.mark.slow
def test_a_service_begins_answers_and_ends(line_made: Path) -> None:
    words = [sys.executable, "-m", "sciinf.cli", "serve", str(line_made / "run"), "--port", "0", "--token", "a"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        timer = threading.Timer(50, process.kill)
        timer.start()
        headers = {"authorization": "Bearer a", "content-type": "application/json"}
        body = json.dumps({"observation": "seen", "draws": 50}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/models/run/answer", body, headers)) as response:
            assert json.load(response)["parameters"]["slope"]["unit"] == "m/s"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        timer.cancel()
    assert process.returncode == 0
    assert said.splitlines()[-1] == "the service has ended"
    assert "Traceback" not in said
    names = {file.name for file in (line_made / "run" / "answers").iterdir()}
    assert names == {"seen"}
