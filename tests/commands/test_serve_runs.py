"""What `sciinf serve` opens a run with is what `sciinf query` would use, whatever becomes of folder and files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from served import serving

from sciinf import load_answer
from sciinf.interfaces.commands.remembered import options_of_run, remember_options
from sciinf.interfaces.commands.serve import ServeOptions, source_of
from sciinf.interfaces.serve.models import Model
from sciinf.interfaces.serve.stored import NOT_MADE

OPTIONS = ServeOptions(accept_changes=True)
READER = """

from pathlib import Path

def read(path, *, flip: bool = False, first: int = 1, dark: Path):
    assert type(flip) is bool and type(first) is int and isinstance(dark, Path), (flip, first, dark)
    x = np.loadtxt(path, skiprows=first) - np.loadtxt(dark)
    return {"x": x[::-1].copy() if flip else x}

simulator = wrappers.numpy(track, prior, {"x": Observable((5,), "m", dims=("time",))}, observe=read)
"""


@pytest.fixture
def read(line: Path) -> Path:
    """A run whose simulator has a reader of its own."""
    (line / "line.py").write_text((line / "line.py").read_text() + READER)
    (line / "dark.txt").write_text("0.1\n")
    return line


@pytest.mark.slow
def test_options_reach_the_reader_in_their_types(read: Path, tmp_path: Path) -> None:
    run, sim = read / "run", read / "line.py"
    remember_options(run, {"flip": False, "first": 1, "dark": read / "dark.txt"})
    assert options_of_run(run)["flip"] == "False"
    words = ["--observation", read / "seen.csv", "--simulator", sim, "--accept-changes", "--out", tmp_path / "out"]
    asked = call("query", run, *words)
    assert asked.code == 0, asked.err
    source = source_of(str(run), replace(OPTIONS, simulator=str(sim)))
    json.dumps(source.to_json())  # it goes to the workers as text
    found = Model(source).read([str(read / "seen.csv")], {})["x"].numpy()
    assert np.allclose(found, [0.1, 1.3, 1.8, 3.1, 3.7])
    assert np.allclose(found, load_answer(tmp_path / "out").observation["x"])


def test_a_needed_option_that_nobody_remembers_is_named(read: Path) -> None:
    model = Model(source_of(str(read / "run"), replace(OPTIONS, simulator=str(read / "line.py"))))
    with pytest.raises(ValueError, match=r"line.py needs --dark PATH to read data"):
        model.read([str(read / "seen.csv")], {})


@pytest.mark.slow
def test_a_simulator_that_changes_later_is_not_used(line: Path) -> None:
    run, file = line / "run", line / "line.py"
    source = source_of(str(run), replace(OPTIONS, simulator=str(file)))
    before, theta = Model(source).digest, {"theta": {"slope": 1.0, "offset": 2.0}}
    with serving([source]) as client:
        client.get("/models")
        assert client.post("/models/run/answer", json={"observation": "seen", "draws": 50}).status_code == 200
        assert client.post("/models/run/simulate", json=theta).status_code == 200
        file.write_text(file.read_text().replace("rng.normal(size=5)", "9 * rng.normal(size=5)"))
        os.kill(client.get("/health").json()["lanes"]["whole"]["pid"], signal.SIGKILL)  # the next one reads the file
        checked = client.post("/models/run/answer", json={"observation": "seen", "draws": 50, "checks": True})
        assert (checked.status_code, "has changed since" in checked.json()["error"]) == (409, True)
        made = client.post("/models/run/simulate", json=theta)
        assert (made.status_code, "has changed since" in made.json()["error"]) == (409, True)
    assert Model(source_of(str(run), replace(OPTIONS, simulator=str(file)))).digest != before


@pytest.mark.slow
def test_a_run_that_is_trained_later_has_its_simulator(read: Path, tmp_path: Path) -> None:
    remember_options(read / "run", {"dark": read / "dark.txt"})
    (young := tmp_path / "young").mkdir()
    words = [sys.executable, "-m", "sciinf.cli", "serve", str(young), "--port", "0", "--accept-changes"]
    words += ["--simulator", str(read / "line.py")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"{process.stdout.readline().split()[-1]}/models/young"
        timer = threading.Timer(100, process.kill)
        timer.start()
        try:
            assert json.load(urllib.request.urlopen(url))["ready"] is False
            shutil.copytree(read / "run", young, dirs_exist_ok=True)
            assert json.load(urllib.request.urlopen(url))["simulator"] is True
            for checks in ("false", "true"):
                found = _sent(f"{url}/answer", (read / "seen.csv").read_text(), checks)
                assert np.allclose(found["observation"]["x"], [0.1, 1.3, 1.8, 3.1, 3.7])
                made = {c["name"] for c in found["checks"] if c["kind"] != NOT_MADE}
                assert ("predictive" in made) == (checks == "true")
        finally:
            timer.cancel()
            process.terminate()
            process.communicate()


def _sent(url: str, content: str, checks: str) -> dict[str, Any]:
    """The answer to a file."""
    parts = f'--B\r\ncontent-disposition: form-data; name="file"; filename="seen.csv"\r\n\r\n{content}\r\n'
    parts += f'--B\r\ncontent-disposition: form-data; name="checks"\r\n\r\n{checks}\r\n--B--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=B"}
    try:
        return json.load(urllib.request.urlopen(urllib.request.Request(url, parts.encode(), headers)))
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error
