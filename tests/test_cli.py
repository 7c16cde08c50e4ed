"""The commands: what they write, print and return, and what they do not do twice."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from sciinf import Store, cli

TWO = """
import os, time
import torch
from torch import distributions as td
from sciinf import Observable, Prior, Simulator

class Two(Simulator):
    name = "two"
    prior = Prior(level=(td.Normal(0.0, 1.0), "V"), slope=td.Normal(0.0, 1.0))
    observables = {"trace": Observable((4,), "mV"), "offset": Observable((), "V")}
    block = 50

    def __call__(self, theta, *, generator):
        time.sleep(float(os.environ.get("NAP", "0")))
        noise = torch.randn(len(theta), 4, generator=generator)
        trace = 1000 * theta[:, :1] + theta[:, 1:] * torch.arange(4) + noise
        return {"trace": trace, "offset": theta[:, 0] + noise[:, 0]}

simulator = Two()
"""


@dataclass(frozen=True)
class Result:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str


def call(*args: object) -> Result:
    """A command in this process."""
    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["sciinf", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return Result(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file's time and hash."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def ball(root: Path) -> Path:
    return root / "simulators" / "linear_gaussian.py"


@pytest.fixture(scope="module")
def observation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "ball.csv"
    file.write_text("x [m]\n2.0\n4.0\n3.5\n1.0\n-2.0\n")
    return file


@pytest.fixture(scope="module")
def inferred(ball: Path, observation: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, list[str]]:
    folder = tmp_path_factory.mktemp("inferred") / "run"
    options = ["--out", str(folder), "-n", "400", "--calibration", "400", "--ess", "300", "--seed", "3"]
    words = ["infer", str(ball), "--observation", str(observation), *options]
    return folder, call(*words), words


def test_infer_leaves_the_whole_run_folder(inferred: tuple[Path, Result, list[str]]) -> None:
    folder, result, _ = inferred
    assert result.code == 0, result.err
    parts = {p.name for p in folder.iterdir()}
    wanted = {"simulations", "calibration_simulations", "fit", "calibration.json", "answer.json", "draws.h5"}
    assert wanted | {"predictive.h5", "reference.safetensors", "report.html", "provenance.json"} == parts
    assert {p.name for p in (folder / "fit").iterdir()} == {"fit.json", "model.safetensors", "history.csv"}
    stores = Store(folder / "simulations"), Store(folder / "calibration_simulations")
    assert [len(s) for s in stores] == [400, 400] and [s.seed for s in stores] == [3, 4]
    assert "velocity" in result.out and "m/s" in result.out and "report" in result.out


def test_provenance(inferred: tuple[Path, Result, list[str]]) -> None:
    folder = inferred[0]
    data = json.loads((folder / "provenance.json").read_text())
    assert {"python", "sciinf", "torch", "numpy"} <= set(data["versions"])
    assert data["seed"] == 3 and data["seeds"] == {"simulations": 3, "calibration_simulations": 4}
    assert data["digests"]["simulations"] == Store(folder / "simulations").digest
    assert data["digests"]["fit"] == json.loads((folder / "fit/fit.json").read_text())["digest"]
    assert set(data["seconds"]) == {"total", "simulations", "calibration_simulations", "fit", "calibration", "answer"}
    assert data["command"].startswith("sciinf infer ")


def test_nothing_is_pickled(inferred: tuple[Path, Result, list[str]]) -> None:
    suffixes = {".json", ".h5", ".safetensors", ".csv", ".html", ".jsonl"}
    for file in inferred[0].rglob("*"):
        if not file.is_file():
            continue
        data = file.read_bytes()
        assert file.suffix in suffixes, file
        assert data[:2] not in {bytes([0x80, n]) for n in range(6)}, file  # a pickle
        assert data[:4] != b"PK\x03\x04", file  # an archive of torch.save
        assert b"cbuiltins\n" not in data and b"ctorch._utils\n" not in data, file


def test_a_second_run_does_nothing_again(inferred: tuple[Path, Result, list[str]]) -> None:
    folder, first, words = inferred
    before = contents(folder)
    again = call(*words)
    assert again.code == 0 and again.out == first.out
    after = contents(folder)
    assert set(after) == set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"report.html", "provenance.json"}
    assert "train" not in again.err


def test_check_tells_a_good_simulator(ball: Path) -> None:
    result = call("check", ball)
    assert result.code == 0 and "no problem found" in result.out


def test_check_finds_faults_in_a_simulator(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(TWO.replace("torch.randn(len(theta), 4, generator=generator)", "torch.randn(len(theta), 4)"))
    result = call("check", file)
    assert result.code == 3 and "PROBLEM" in result.out


def test_the_verbs_one_after_the_other(ball: Path, observation: Path, tmp_path: Path) -> None:
    run, store = tmp_path / "run", tmp_path / "store"
    made = call("simulate", ball, "-n", 300, "--out", store, "--seed", 5, "--block", 100)
    assert made.code == 0 and Store(store).digest in made.out and len(Store(store)) == 300
    assert call("simulate", ball, "-n", 300, "--out", store, "--seed", 5).code == 0
    trained = call("train", ball, store, "--out", run, "--estimator", "flow")
    assert trained.code == 0, trained.err
    unchecked = call("query", run, "--observation", observation, "--json")
    assert json.loads(unchecked.out)["calibration"]["passed"] is False
    checked = call("calibrate", ball, run, "-n", 200)
    assert checked.code == 0 and "calibration" in checked.out
    assert Store(run / "calibration_simulations").seed == 6
    asked = call("query", run, "--observation", observation, "--json")
    assert asked.code == 0 and json.loads(asked.out)["trust"]["p_value"] is not None
    reported = call("report", run)
    assert reported.code == 0 and Path(reported.out.strip()) == run / "report.html"


def test_query_prints_json_and_nothing_else(inferred: tuple[Path, Result, list[str]], observation: Path) -> None:
    folder = inferred[0]
    result = call("query", folder, "--observation", observation, "--level", 0.5, "--json")
    data = json.loads(result.out)
    assert result.code == 0 and json.loads((folder / "answer.json").read_text()) == data
    assert list(data["parameters"]) == ["height", "velocity", "acceleration"]
    assert all(e["level"] == 0.5 for e in data["parameters"].values())
    assert data["log_evidence"] is None  # without the simulator there is no likelihood
    assert {"draws", "ess", "calibration", "trust"} <= set(data)


def test_query_with_the_simulator_corrects(
    inferred: tuple[Path, Result, list[str]], ball: Path, observation: Path
) -> None:
    words = ["--observation", observation, "--simulator", ball, "--ess", 100, "--json"]
    result = call("query", inferred[0], *words)
    assert result.code == 0 and json.loads(result.out)["log_evidence"] is not None


def test_query_warns_of_an_unusual_observation(inferred: tuple[Path, Result, list[str]], tmp_path: Path) -> None:
    odd = tmp_path / "odd.csv"
    odd.write_text("x\n" + "5.0\n-5.0\n" * 2 + "5.0\n")
    result = call("query", inferred[0], "--observation", odd, "--json")
    assert result.code == 0 and json.loads(result.out)["trust"]["p_value"] < 0.01
    assert "warning:" in result.err and "unlike the simulations" in result.err


@pytest.mark.parametrize("suffix", ["h5", "nc", "ecsv", "csv"])
def test_draws_in_every_format(
    inferred: tuple[Path, Result, list[str]], observation: Path, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"draws.{suffix}"
    result = call("query", inferred[0], "--observation", observation, "--draws", file)
    assert result.code == 0, result.err
    with h5py.File(inferred[0] / "draws.h5") as kept:
        velocity = kept["velocity"][()]
    if suffix == "h5":
        with h5py.File(file) as written:
            assert np.array_equal(written["velocity"][()], velocity)
    elif suffix == "nc":
        with h5py.File(file) as written:
            assert np.allclose(np.ravel(written["posterior/velocity"][()]), velocity)
    else:
        from astropy.table import Table

        table = Table.read(file, format=f"ascii.{suffix}")
        name = next(n for n in table.colnames if n.startswith("velocity"))
        assert np.allclose(table[name], velocity, rtol=1e-5)


def test_observations_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "trace.csv").write_text("trace [uV]\n1e6\n1e6\n1e6\n1e6\n")
    (tmp_path / "offset.json").write_text('{"offset": 1.1}')
    store, run = tmp_path / "store", tmp_path / "run"
    assert call("simulate", tmp_path / "two.py", "-n", 200, "--out", store).code == 0
    assert call("train", tmp_path / "two.py", store, "--out", run).code == 0
    files = [tmp_path / "trace.csv", tmp_path / "offset.json"]
    once = call("query", run, "--observation", *files, "--json")
    twice = call("query", run, "--observation", files[0], "--observation", files[1], "--json")
    equals = call("query", f"--observation={files[0]}", files[1], "--json", run)
    assert (once.code, twice.code, equals.code) == (0, 0, 0), once.err + twice.err + equals.err
    assert once.out == twice.out == equals.out
    with h5py.File(run / "predictive.h5") as file:
        assert np.allclose(file["observation/trace"][()], 1000.0)  # in the simulator's mV


def test_a_damaged_store_is_found_and_mended(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    store = tmp_path / "store"
    assert call("simulate", tmp_path / "two.py", "-n", 200, "--out", store).code == 0
    digest = Store(store).digest
    good = call("check", store)
    assert good.code == 0 and "no damage" in good.out and "200" in good.out
    shard = sorted((store / "shards").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(bytes(data))
    bad = call("check", store)
    assert bad.code == 3 and "damaged: block 1" in bad.out
    mended = call("check", store, "--repair", tmp_path / "two.py")
    assert mended.code == 0 and "simulated 1 blocks again" in mended.out
    assert Store(store).digest == digest
    refused = call("check", tmp_path / "two.py", "--repair", tmp_path / "two.py")
    assert refused.code == 2 and "--repair is for a folder of simulations" in refused.err


def test_an_interrupted_campaign_returns_130_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    words = ["simulate", str(tmp_path / "two.py"), "-n", "2000", "--out"]
    command = [sys.executable, "-m", "sciinf.cli", *words, str(tmp_path / "store")]
    process = subprocess.Popen(
        command, env={**os.environ, "NAP": "0.3"}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "store" / "shards").glob("*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err.splitlines()[-1]
    assert 100 <= len(Store(tmp_path / "store")) < 2000 and not Store(tmp_path / "store").damaged()
    assert call(*words, tmp_path / "store").code == 0
    assert call(*words, tmp_path / "whole").code == 0
    assert Store(tmp_path / "store").digest == Store(tmp_path / "whole").digest


PIPELINE = """
from pathlib import Path

def run(out, *, seed: int = 0, simulations: int = 10, ess: float = 1.5, name: str = "a", deep: bool = False,
        data: Path | None = None):
    raise ValueError(repr((out, seed, simulations, ess, name, deep, data)))
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "0, 10, 1.5, 'a', False, None"),
        (["--seed", "4", "--simulations", "1e3"], "4, 1000, 1.5, 'a', False, None"),
        (["--ess=3", "--name", "b", "--deep", "yes"], "0, 10, 3.0, 'b', True, None"),
        (["--data", "x.csv"], "0, 10, 1.5, 'a', False, PosixPath('x.csv')"),
    ],
)
def test_keywords_of_a_pipeline_are_options(tmp_path: Path, options: list[str], expected: str) -> None:
    (tmp_path / "p.py").write_text(PIPELINE)
    result = call("run", tmp_path / "p.py", "--out", tmp_path / "out", *options)
    assert f"{expected})" in result.err and result.code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--simulatons", "5"], "no option '--simulatons'; it has --simulations, --ess, --name, --deep, --data"),
        (["--simulations", "2.5"], "takes a int, got '2.5'"),
        (["--simulations", "1.5e0"], "takes a int"),
        (["--simulations", "1e400"], "takes a int"),
        (["--deep", "perhaps"], "takes a bool"),
        (["--ess"], "needs a value"),
    ],
)
def test_wrong_keywords_of_a_pipeline(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "p.py").write_text(PIPELINE)
    result = call("run", tmp_path / "p.py", "--out", tmp_path / "out", *options)
    assert result.code == 2 and message in result.err
    assert not (tmp_path / "out").exists()


def test_run_without_a_run_function(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("x = 1\n")
    result = call("run", tmp_path / "p.py", "--out", tmp_path / "out")
    assert result.code == 2 and "must define `run(out, *, seed, ...)`" in result.err
    assert call("run", tmp_path / "none.py", "--out", tmp_path / "out").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["infer"],
        ["nothing"],
        ["infer", "a.py", "--observation", "b.csv", "--out", "c", "-n", "10"],
        ["infer", "a.py", "--observation", "b.csv", "--out", "c", "-n", "1000", "--level", "90"],
        ["query", "a", "--observation"],
        ["simulate", "a.py", "-n", "0", "--out", "b"],
        ["simulate", "a.py", "-n", "5", "--out", "b", "--seed", "-1"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    result = call(*words)
    assert result.code == 2 and "Error:" in result.err and result.out == ""


def test_unknown_estimators_and_block_sizes(ball: Path, observation: Path, tmp_path: Path) -> None:
    words = ["infer", ball, "--observation", observation, "--out", tmp_path / "run", "-n", 100]
    result = call(*words, "--estimator", "magic")
    assert result.code == 2 and "'magic'; there is flow" in result.err
    assert not (tmp_path / "run").exists()
    result = call("simulate", ball, "-n", 10, "--out", tmp_path / "store", "--block", "many")
    assert result.code == 2 and "--block takes a number of rows or 'auto'" in result.err


def test_help_is_quick_and_light() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['sciinf', '--help']\n"
        "from sciinf.cli import main\n"
        "main()\n"
        "heavy = {'torch', 'numpy', 'scipy', 'jax', 'sbi', 'h5py'} & set(sys.modules)\n"
        "raise SystemExit(f'loaded {heavy}' if heavy else 0)\n"
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        times.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
    assert min(times) < 1.0, times
    for verb in ("run", "infer", "simulate", "train", "calibrate", "query", "report", "check"):
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE)


def test_the_processs_warnings_are_as_they_were(ball: Path) -> None:
    import warnings

    before = warnings.showwarning, list(warnings.filters)
    call("check", ball)
    assert (warnings.showwarning, list(warnings.filters)) == before


def test_errors_can_be_traced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no simulator at"):
        call("--traceback", "check", tmp_path / "none.py")
