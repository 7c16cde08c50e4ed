"""What users get wrong: one clear line, exit status 2, and nothing that was there before is touched."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from torch import distributions as td

from sciinf import Flow, Prior, Recipe, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Status
from sciinf.core.files import write_json
from sciinf.core.fit import _digest

SIMULATOR = """
import math, time
import torch
from torch import distributions as td
from sciinf import Observable, Prior, Simulator

class Line(Simulator):
    name = "line"
    prior = Prior(a=(td.Normal(0.0, 1.0), "V"), b=td.Normal(0.0, 1.0))
    observables = {"v": Observable((3,), "mV", ("time",))}
    block = 20

    def __call__(self, theta, *, generator):
        noise = torch.randn(len(theta), 3, generator=generator)
        v = theta[:, :1] + theta[:, 1:] * torch.arange(3) + noise
        FAULT
        return {"v": v}

simulator = Line()
"""
GOOD = "v [mV]\n0.1\n0.2\n0.3\n"


def written(folder: Path, fault: str = "", name: str = "line.py") -> Path:
    file = folder / name
    file.write_text(SIMULATOR.replace("FAULT", fault))
    return file


def hashes(folder: Path) -> dict[str, str]:
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "log.txt"]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@dataclass(frozen=True)
class Run:
    """A finished run folder and the simulator it is of."""

    simulator: Path
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    base = tmp_path_factory.mktemp("made")
    path = written(base)
    simulator = load_simulator(path)
    store = simulate(simulator, base / "run/simulations", 200, progress=False)
    flow = Flow(simulator.prior, simulator.observables)
    posterior = build_posterior(train(flow, store, base / "run/fit", recipe=Recipe(epochs=1)))
    fresh = simulate(simulator, base / "run/calibration_simulations", 200, seed=1, progress=False)
    calibration = calibrate(posterior, fresh, base / "run")
    query(posterior, {"v": [0.0, 0.0, 0.0]}, calibration, out=base / "run")
    return Run(path, base / "run")


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """A copy that a test may damage."""
    shutil.copytree(made.folder, tmp_path / "run")
    return Run(made.simulator, tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v\n0.1\nnan\n0.3\n", "1 values that are NaN or infinite"),
        ("v\n0.1\n\n0.3\n", "has shape (2,)|NaN"),
        ("v\n0.1\n0.2\n", "shape (2,), the simulator produces (3,)"),
        ("w\n0.1\n0.2\n0.3\n", "no column 'v'"),
        ("v [s]\n0.1\n0.2\n0.3\n", "'s', which does not convert to the simulator's 'mV'"),
        ("v [mVolts]\n0.1\n0.2\n0.3\n", "'mVolts', which does not convert"),
        ("v\n0.1\nblue\n0.3\n", "expected numbers"),
        ("", "data.csv is empty"),
    ],
)
def test_observations(made: Run, tmp_path: Path, text: str, message: str) -> None:
    file, before = tmp_path / "data.csv", hashes(made.folder)
    file.write_text(text)
    asked = call("query", made.folder, "--observation", file)
    assert asked.code == 2
    assert asked.out == ""
    assert any(part in asked.error for part in message.split("|")), asked.error
    assert hashes(made.folder) == before
    inferred = call("infer", made.simulator, "--observation", file, "--out", tmp_path / "new", "-n", 200)
    assert inferred.code == 2
    assert inferred.error == asked.error
    assert not (tmp_path / "new").exists()  # refused before anything is simulated


@pytest.mark.slow
def test_observations_in_other_units_are_converted(run: Run, tmp_path: Path) -> None:
    means = []
    for text in (GOOD, "v [uV]\n100\n200\n300\n", "v\n0.1\n0.2\n0.3\n"):
        (tmp_path / "data.csv").write_text(text)
        result = call("query", run.folder, "--observation", tmp_path / "data.csv", "--json")
        means.append(json.loads(result.out)["parameters"]["a"]["mean"])
    assert means[1] == pytest.approx(means[0], abs=1e-5)
    assert means[2] == means[0]


@pytest.mark.parametrize("name", ["none.csv", "data.xlsx"])
def test_observation_files(made: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "data.xlsx").write_bytes(b"x")
    result = call("query", made.folder, "--observation", tmp_path / name)
    assert result.code == 2
    assert name in result.error


def test_a_wrong_observe_is_noticed_before_simulating(tmp_path: Path) -> None:
    fault = 'return {"v": v}\n\n    def observe(self, *paths):\n        return {"v": torch.zeros(7)}\n'
    (tmp_path / "data.csv").write_text(GOOD)
    file = written(tmp_path, fault)
    file.write_text(file.read_text().replace('\n\n        return {"v": v}\n\nsim', "\n\nsim"))
    result = call("infer", file, "--observation", tmp_path / "data.csv", "--out", tmp_path / "new", "-n", 200)
    assert result.code == 2
    assert "shape (7,)" in result.error
    assert not (tmp_path / "new").exists()


def test_some_rows_that_are_not_finite(tmp_path: Path) -> None:
    file = written(tmp_path, "v[theta[:, 0] > 1] = math.nan")
    result = call("simulate", file, "-n", 400, "--out", tmp_path / "store")
    assert result.code == 0
    assert "warning: " in result.err
    assert "left out of training and calibration" in result.err
    counts = Store(tmp_path / "store").counts
    assert 30 < counts[Status.NON_FINITE] < 100  # 16 % of 400: 63 +- 7.3
    assert f"{counts[Status.NON_FINITE]} of them failed (non finite)" in result.out


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("v[theta[:, 0] > -1] = math.nan", Status.NON_FINITE, "refused above 50%"),
        ("raise ZeroDivisionError('no current')", Status.RAISED, "ZeroDivisionError: no current"),
    ],
)
def test_most_rows_that_fail(tmp_path: Path, fault: str, status: Status, message: str) -> None:
    result = call("simulate", written(tmp_path, fault), "-n", 100, "--out", tmp_path / "store")
    assert result.code == 2
    assert message in result.error
    assert Store(tmp_path / "store").counts[status] > 10  # kept, to be looked at


def test_another_shape_on_the_second_batch(tmp_path: Path) -> None:
    fault = "self.calls = getattr(self, 'calls', 0) + 1\n        v = v if self.calls < 3 else v[:, :2]"
    result = call("simulate", written(tmp_path, fault), "-n", 100, "--out", tmp_path / "store")
    assert result.code == 2
    assert "shape (20, 2), expected (20, 3)" in result.error
    assert len(Store(tmp_path / "store")) == 40  # two blocks are kept


@pytest.mark.slow
def test_a_simulator_that_hangs(tmp_path: Path) -> None:
    file = written(tmp_path, "time.sleep(3600)")
    result = call("simulate", file, "-n", 4, "--block", 4, "--timeout", 0.5, "--out", tmp_path / "store")
    assert result.code == 2
    assert "timed out" in result.error
    assert Store(tmp_path / "store").counts[Status.TIMED_OUT] == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b=td.Normal(0.0, 1.0)", "b=td.Normal(loc=0.0, scael=1.0)", "line 9: TypeError: .*'scael'"),
        ("b=td.Normal(0.0, 1.0)", "b=td.Normal(0.0, -1.0)", "line 9: ValueError: .*scale"),
        ("b=td.Normal(0.0, 1.0)", "b=td.Nromal(0.0, 1.0)", "line 9: AttributeError: .*Nromal"),
        ('"V"', '"Vlot"', "line 9: ValueError: .*'Vlot'"),
        ("import math, time", "import maths", "line 2: ModuleNotFoundError: .*'maths'"),
        ("class Line(Simulator):", "class Line(Simulator)", "line 7: expected ':'"),
        ("simulator = Line()", "", "must define `simulator`"),
        ("simulator = Line()", "simulator = 3", "must define `simulator`.*int"),
    ],
)
def test_mistakes_in_the_simulators_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = written(tmp_path)
    file.write_text(file.read_text().replace(old, new))
    result = call("simulate", file, "-n", 10, "--out", tmp_path / "store")
    assert result.code == 2
    assert not (tmp_path / "store").exists()
    assert "line.py" in result.error
    assert re.search(message, result.error), result.error


def test_a_wrong_law_is_refused_whatever_torch_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """sbi switches torch's own check off for the whole process."""
    monkeypatch.setattr(td.Distribution, "_validate_args", False)
    for law, message in (
        (td.Normal(0.0, -1.0), "scale=-1, expected GreaterThan"),
        (td.LogNormal(0.0, -1.0), "scale=-1"),
        (td.Uniform(5.0, 1.0), "expected (low < high|LessThan)"),
        (td.Gamma(torch.tensor(0.0), torch.tensor(1.0)), "concentration=0"),
    ):
        with pytest.raises(ValueError, match=message):
            Prior(a=law)
    assert len(Prior(a=td.Normal(0.0, 1.0), b=td.Uniform(1.0, 5.0), c=td.LogNormal(0.0, 0.1))) == 3


def test_a_simulator_that_is_not_there(tmp_path: Path) -> None:
    for words in (["check", tmp_path / "x.py"], ["simulate", tmp_path, "-n", 5, "--out", tmp_path / "s"]):
        result = call(*words)
        assert result.code == 2
        assert "no simulator at" in result.error


def test_simulations_and_fits_of_another_simulator(run: Run, tmp_path: Path) -> None:
    before = hashes(run.folder)
    other = written(tmp_path, "v = v + 1")
    (tmp_path / "data.csv").write_text(GOOD)
    store = run.folder / "simulations"
    for words in (
        ["train", other, store, "--out", tmp_path / "new"],
        ["calibrate", other, run.folder],
        ["query", run.folder, "--simulator", other, "--observation", tmp_path / "data.csv"],
    ):
        result = call(*words)
        assert result.code == 2
        assert "has changed since" in result.error
    for words in (["simulate", other, "-n", 200, "--out", store], ["check", store, "--repair", other]):
        assert call(*words).code == 2
    assert call("simulate", run.simulator, "-n", 200, "--out", store, "--seed", 7).code == 2
    assert hashes(run.folder) == before


def test_fits_of_newer_versions_and_of_other_peoples_classes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(GOOD)
    file = run.folder / "fit/fit.json"
    good: dict[str, Any] = json.loads(file.read_text())
    write_json(file, {**good, "schema": 99})
    words = ["query", run.folder, "--observation", tmp_path / "data.csv"]
    result = call(*words)
    assert result.code == 2
    assert "format 99" in result.error
    assert "update sciinf" in result.error
    for name in ("os.path", "subprocess.Popen", "torch.nn.modules.linear.Linear"):
        built = {"$class": name, "arguments": {}}
        digest = _digest((run.folder / "fit/model.safetensors").read_bytes(), built)
        write_json(file, {**good, "estimator": built, "digest": digest})
        result = call(*words)
        assert result.code == 2
        assert f"'{name}', which is outside sciinf" in result.error
    write_json(file, {**good, "estimator": {"$class": "sciinf.training.Recipe", "arguments": {}}})
    assert "damaged" in call(*words).error
    file.write_text(json.dumps(good)[:-30])
    assert "fit.json is damaged" in call(*words).error
    file.unlink()
    assert "no finished fit" in call(*words).error


@pytest.mark.parametrize("name", ["fit/model.safetensors", "reference.safetensors", "calibration.json"])
def test_damaged_files(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "data.csv").write_text(GOOD)
    data = bytearray((run.folder / name).read_bytes())
    data[len(data) // 2] ^= 255
    (run.folder / name).write_bytes(bytes(data))
    result = call("query", run.folder, "--observation", tmp_path / "data.csv")
    assert result.code == 2
    assert "damaged" in result.error


@pytest.mark.slow
def test_no_disk_space(run: Run, tmp_path: Path) -> None:
    """A limit on the size of files fails a write as a full disk does, in the middle."""
    (tmp_path / "data.csv").write_text(GOOD)
    before = hashes(run.folder)
    command = [
        sys.executable,
        "-m",
        "sciinf.cli",
        "query",
        str(run.folder),
        "--observation",
        str(tmp_path / "data.csv"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("sciinf: error: ")
    assert "too large" in done.stderr
    assert hashes(run.folder) == before


def test_a_folder_that_cannot_be_written(made: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "data.csv").write_text(GOOD)
    out = tmp_path / "file" / "run"
    result = call("infer", made.simulator, "--observation", tmp_path / "data.csv", "--out", out, "-n", 200)
    assert result.code == 2
    assert "cannot write to the run folder" in result.error
    assert call("simulate", made.simulator, "-n", 10, "--out", out).code == 2
    result = call("query", made.folder, "--observation", tmp_path / "data.csv", "--draws", out / "draws.h5")
    assert result.code == 2


def test_draws_in_an_unknown_format_are_refused_before_asking(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(GOOD)
    before = hashes(run.folder)
    words = ["--observation", tmp_path / "data.csv", "--draws", tmp_path / "draws.xyz"]
    result = call("query", run.folder, *words)
    assert result.code == 2
    assert "expected one of .h5" in result.error
    assert hashes(run.folder) == before


def test_reports_of_nothing(tmp_path: Path) -> None:
    assert call("report", tmp_path).code == 2
    assert call("report", tmp_path / "none").code == 2
