"""The commands: what they write, print and return, and what they do not do twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from brief import briefly_trained
from command_line import Result, call

from sciinf import Flow, Recipe, load_simulator, train
from sciinf.campaigns import Store

TWO = """
import os, time, torch
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
@briefly_trained()
def inferred(ball: Path, observation: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, list[str]]:
    folder = tmp_path_factory.mktemp("inferred") / "run"
    options = ["--out", str(folder), "-n", "400", "--calibration", "400", "--ess", "300", "--seed", "3"]
    words = ["infer", str(ball), "--observation", str(observation), *options]
    return folder, call(*words), words


def test_infer_leaves_the_whole_run_folder(inferred: tuple[Path, Result, list[str]]) -> None:
    folder, result, _ = inferred
    assert result.code == 0, result.err
    parts = {p.name for p in folder.iterdir()}
    wanted = {"simulations", "calibration_simulations", "fit", "calibration.json", "answers"}
    wanted |= {"reference.safetensors", "report.html", "provenance.json", "log.txt", "events.jsonl"}
    assert wanted == parts
    assert {p.name for p in (folder / "answers/ball").iterdir()} == {"answer.json", "draws.h5", "predictive.h5"}
    assert {p.name for p in (folder / "fit").iterdir()} == {"fit.json", "model.safetensors", "history.csv"}
    stores = Store(folder / "simulations"), Store(folder / "calibration_simulations")
    assert [len(s) for s in stores] == [400, 400]
    assert [s.seed for s in stores] == [3, 4]
    assert "velocity" in result.out
    assert "m/s" in result.out
    assert "report" in result.out


def test_provenance(inferred: tuple[Path, Result, list[str]]) -> None:
    folder = inferred[0]
    data = json.loads((folder / "provenance.json").read_text())
    assert {"python", "sciinf", "torch", "numpy"} <= set(data["versions"])
    assert data["seed"] == 3
    assert data["seeds"] == {"simulations": 3, "calibration_simulations": 4}
    assert data["digests"]["simulations"] == Store(folder / "simulations").digest
    assert data["digests"]["fit"] == json.loads((folder / "fit/fit.json").read_text())["digest"]
    assert set(data["seconds"]) == {"total", "simulations", "calibration_simulations", "fit", "calibration", "answer"}
    assert data["command"].startswith("sciinf infer ")


def test_nothing_is_pickled(inferred: tuple[Path, Result, list[str]]) -> None:
    suffixes = {".json", ".h5", ".safetensors", ".csv", ".html", ".jsonl", ".txt"}
    for file in inferred[0].rglob("*"):
        if not file.is_file():
            continue
        data = file.read_bytes()
        assert file.suffix in suffixes, file
        if file.suffix == ".safetensors":
            assert data[8:9] == b"{", file  # after the length of its head
        else:
            assert data[:2] not in {bytes([0x80, n]) for n in range(6)}, file  # a pickle
        assert data[:4] != b"PK\x03\x04", file  # an archive of torch.save
        assert not any(mark in data for mark in (b"cbuiltins\n", b"ctorch._utils\n")), file


def test_a_second_run_does_nothing_again(inferred: tuple[Path, Result, list[str]]) -> None:
    folder, first, words = inferred
    before = contents(folder)
    again = call(*words)
    assert again.code == 0
    assert again.out == first.out
    after = contents(folder)
    assert set(after) == set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"report.html", "provenance.json", "log.txt", "events.jsonl"}
    assert "train" not in again.err


def test_check_tells_a_good_simulator(ball: Path) -> None:
    result = call("check", ball)
    assert result.code == 0
    assert "no problem found" in result.out


def test_check_finds_faults_in_a_simulator(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(TWO.replace("torch.randn(len(theta), 4, generator=generator)", "torch.randn(len(theta), 4)"))
    result = call("check", file)
    assert result.code == 3
    assert "WARNING" in result.out


@briefly_trained()
def test_the_verbs_one_after_the_other(ball: Path, observation: Path, tmp_path: Path) -> None:
    run, store = tmp_path / "run", tmp_path / "store"
    made = call("simulate", ball, "-n", 120, "--out", store, "--seed", 5, "--block", 40)
    assert made.code == 0
    assert Store(store).digest in made.out
    assert len(Store(store)) == 120
    assert call("simulate", ball, "-n", 120, "--out", store, "--seed", 5).code == 0
    trained = call("train", ball, store, "--out", run, "--estimator", "flow")
    assert trained.code == 0, trained.err
    unchecked = call("query", run, "--observation", observation, "--json")
    assert json.loads(unchecked.out)["calibration"]["passed"] is False
    (run / "report.html").touch()
    os.utime(run / "report.html", (0, 0))
    checked = call("calibrate", ball, run, "-n", 150)
    assert checked.code == 0
    assert "report.html does not show this calibration" in checked.err
    assert "calibration" in checked.out
    assert Store(run / "calibration_simulations").seed == 6
    asked = call("query", run, "--observation", observation, "--json")
    assert asked.code == 0
    assert json.loads(asked.out)["trust"]["p_value"] is not None
    reported = call("report", run)
    assert reported.code == 0
    assert Path(reported.out.strip()) == run / "report.html"


@pytest.mark.slow
def test_query_prints_json_and_nothing_else(inferred: tuple[Path, Result, list[str]], observation: Path) -> None:
    folder = inferred[0]
    words = ["--observation", observation, "--without-simulator", "--level", 0.5, "--json"]
    assert call("query", folder, "--observation", observation).code == 0
    lost, result = (call("query", folder, *words, "--seed", seed) for seed in (1, 0))
    assert ["had been checked by simulations" in one.err for one in (lost, result)] == [True, False]
    data = json.loads(result.out)
    assert result.code == 0
    kept = json.loads((folder / "answers/ball/answer.json").read_text())
    assert {key: kept[key] for key in data} == data
    assert list(data["parameters"]) == ["height", "velocity", "acceleration"]
    assert all(e["level"] == 0.5 for e in data["parameters"].values())
    assert data["log_evidence"] is None  # without the simulator there is no likelihood
    assert {"draws", "ess", "calibration", "trust"} <= set(data)


def test_query_with_the_simulator_corrects(
    inferred: tuple[Path, Result, list[str]], ball: Path, observation: Path
) -> None:
    words = ["--observation", observation, "--simulator", ball, "--ess", 100, "--json"]
    result = call("query", inferred[0], *words)
    assert result.code == 0
    assert json.loads(result.out)["log_evidence"] is not None


def test_query_warns_of_an_unusual_observation(inferred: tuple[Path, Result, list[str]], tmp_path: Path) -> None:
    odd = tmp_path / "odd.csv"
    odd.write_text("x\n" + "5.0\n-5.0\n" * 2 + "5.0\n")
    result = call("query", inferred[0], "--observation", odd, "--without-simulator", "--json")
    assert result.code == 0
    assert json.loads(result.out)["trust"]["p_value"] < 0.01
    assert "warning:" in result.err
    assert "unlike the simulations" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["h5", "nc", "ecsv", "csv"])
def test_draws_in_every_format(
    inferred: tuple[Path, Result, list[str]], observation: Path, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"draws.{suffix}"
    result = call("query", inferred[0], "--observation", observation, "--without-simulator", "--draws", file)
    assert result.code == 0, result.err
    with h5py.File(inferred[0] / "answers/ball/draws.h5") as opened:
        kept: Any = opened
        velocity = kept["velocity"][()]
    if suffix == "h5":
        with h5py.File(file) as opened:
            written: Any = opened
            assert np.array_equal(written["velocity"][()], velocity)
    elif suffix == "nc":
        with h5py.File(file) as opened:
            written: Any = opened
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
    simulator = load_simulator(tmp_path / "two.py")
    flow = Flow(simulator.prior, simulator.observables)
    train(flow, Store(store), run / "fit", recipe=Recipe(epochs=1))
    files = [tmp_path / "trace.csv", tmp_path / "offset.json"]
    once = call("query", run, "--observation", *files, "--json")
    twice = call("query", run, "--observation", files[0], "--observation", files[1], "--json")
    equals = call("query", f"--observation={files[0]}", files[1], "--json", run)
    assert (once.code, twice.code, equals.code) == (0, 0, 0), once.err + twice.err + equals.err
    assert once.out == twice.out == equals.out
    with h5py.File(run / "answers/trace+offset/predictive.h5") as opened:
        file: Any = opened
        assert np.allclose(file["observation/trace"][()], 1000.0)  # in the simulator's mV


@pytest.mark.slow
def test_a_damaged_store_is_found_and_mended(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    store = tmp_path / "store"
    assert call("simulate", tmp_path / "two.py", "-n", 200, "--out", store).code == 0
    digest = Store(store).digest
    good = call("check", store)
    assert good.code == 0
    assert "no damage" in good.out
    assert "200" in good.out
    shard = sorted((store / "shards").glob("*/*.h5"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(bytes(data))
    bad = call("check", store)
    assert bad.code == 3
    assert "damaged: block 1" in bad.out
    mended = call("check", store, "--repair", tmp_path / "two.py")
    assert mended.code == 0
    assert "simulated 1 blocks again" in mended.out
    assert Store(store).digest == digest
    refused = call("check", tmp_path / "two.py", "--repair", tmp_path / "two.py")
    assert refused.code == 2
    assert "--repair is for a folder of simulations" in refused.err


@pytest.mark.slow
def test_an_interrupted_campaign_returns_130_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    words = ["simulate", str(tmp_path / "two.py"), "-n", "2000", "--out"]
    command = [sys.executable, "-m", "sciinf.cli", *words, str(tmp_path / "store")]
    process = subprocess.Popen(
        command, env={**os.environ, "NAP": "0.3"}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "store" / "shards").glob("*/*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err.splitlines()[-1]
    assert 100 <= len(Store(tmp_path / "store")) < 2000
    assert not Store(tmp_path / "store").damaged()
    assert call(*words, tmp_path / "store").code == 0
    assert call(*words, tmp_path / "whole").code == 0
    assert Store(tmp_path / "store").digest == Store(tmp_path / "whole").digest


def test_pipelines_and_their_options(tmp_path: Path) -> None:
    file, out = tmp_path / "p.py", tmp_path / "out"
    file.write_text("def run(out, *, seed=0, simulations=10):\n    raise ValueError((out.name, seed, simulations))\n")
    result = call("run", file, "--out", out, "--simulations", "2e3", "--seed", 4)
    assert result.code == 2
    assert "('out', 4, 2000)" in result.err
    assert "ValueError" in (out / "log.txt").read_text()
    page = (out / "report.html").read_text()
    assert "Stopped in the stage “run p.py”: (" in page, "it has a page of how far it is, as infer has"
    assert "to come" not in page
    shutil.rmtree(out)
    result = call("run", file, "--out", out, "--simulatons", 5)
    assert result.code == 2
    assert "p.py has no option '--simulatons'; it has --simulations" in result.err
    file.write_text("x = 1\n")
    assert "must define `run(out, *, seed, ...)`" in call("run", file, "--out", out).err
    file.write_text("x = y\n")
    assert "p.py, line 1: NameError" in call("run", file, "--out", out).err
    result = call("run", tmp_path / "none.py", "--out", out)
    assert result.code == 2
    assert "no pipeline at" in result.err
    assert not out.exists()


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
    assert result.code == 2
    assert "Error:" in result.err
    assert result.out == ""


def test_unknown_estimators_and_block_sizes(ball: Path, observation: Path, tmp_path: Path) -> None:
    words = ["infer", ball, "--observation", observation, "--out", tmp_path / "run", "-n", 100]
    result = call(*words, "--estimator", "magic")
    assert result.code == 2
    assert "no estimator 'magic'. There is" in result.err
    assert not (tmp_path / "run").exists()
    result = call("simulate", ball, "-n", 10, "--out", tmp_path / "store", "--block", "many")
    assert result.code == 2
    assert "--block takes a number of rows or 'auto'" in result.err


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
    for words in (["-v", "check", tmp_path / "none.py"], ["check", tmp_path / "none.py", "--verbose"]):
        result = call(*words)
        assert result.code == 2
        assert "in load_simulator" in result.err
        assert "FileNotFoundError: no simulator at" in result.err
        assert result.err.splitlines()[-1].startswith("sciinf: error: no simulator at")


def test_an_interrupt_after_all_is_written_does_not_end_as_one() -> None:
    program = (
        "import atexit, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"  # what is registered last is called first
        "sys.argv = ['sciinf', '--version']\n"
        "from sciinf.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
