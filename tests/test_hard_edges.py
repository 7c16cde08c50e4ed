"""Hard edges that users met: what works elsewhere works here too."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from command_line import call
from torch.distributions import MultivariateNormal, Normal

from sciinf import Flow, Prior, Recipe, load_simulator, simulate, train
from sciinf.interfaces.commands.run_folders import run_folder

OWN = """
import sys
from pathlib import Path

import numpy as np
from torch.distributions import Normal

from parts import Halves
from sciinf import Observable, Prior, wrappers

GRID = Path(__file__).parent / "grid.csv"


def track(slope, rng):
    import late

    return slope * np.loadtxt(GRID) * late.UNIT + rng.normal(size=4)


simulator = wrappers.numpy(track, Prior(slope=Normal(0.0, 1.0)), {"x": Observable((4,), dims=("time",))})
simulator.summary = Halves
"""

PARTS = '''
from sciinf.core.summary import Summary, SummaryNetwork


class Halves(Summary):
    """Sums of the two halves."""

    def build(self, spec, *, masked):
        return Sums(spec.shape, masked)


class Sums(SummaryNetwork):
    features = 2

    def summarise(self, x, mask):
        return x.unflatten(1, (2, -1)).sum(2)
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose fit has a summary network that is defined beside the simulator, as a script leaves it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "sim.py").write_text(OWN)
    (folder / "parts.py").write_text(PARTS)
    (folder / "late.py").write_text("UNIT = 1.0\n")
    (folder / "grid.csv").write_text("0 1 2 3\n")
    (folder / "seen.csv").write_text("x\n0.1\n1.1\n2.2\n2.9\n")
    simulator = load_simulator(folder / "sim.py")
    store = simulate(simulator, folder / "run" / "simulations", 200, progress=False)
    estimator = Flow(simulator.prior, simulator.observables, summary=simulator.summary())
    train(estimator, store, folder / "run" / "fit", recipe=Recipe(epochs=2))
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` elsewhere, which a test may change."""
    return shutil.copytree(made, tmp_path / "moved")


def question(folder: Path, *more: object) -> list[object]:
    return ["query", folder / "run", "--observation", folder / "seen.csv", *more]


# --- 15: modules beside a simulator, and fits with parts of one --------------------------------------------------


@pytest.mark.slow
def test_a_fit_with_parts_of_a_simulators_folder_is_queried_and_calibrated(own):
    refused = call(*question(own))
    assert (refused.code, "--simulator FILE" in refused.error) == (2, True)
    answer = call(*question(own, "--simulator", own / "sim.py"))
    assert answer.code == 0, answer.err
    assert "slope" in answer.out
    assert call("calibrate", own / "sim.py", own / "run", "-n", 100).code == 0
    assert call("report", own / "run").code == 0


def test_no_code_runs_because_a_file_says_so(own, tmp_path):
    """Only the file that the user names is run, and only what is called like it is looked for there."""
    (own / "parts.py").write_text("raise RuntimeError('ran')\n")
    assert "ran" not in call(*question(own)).error
    (own / "other.py").write_text(OWN)
    shutil.copy(own / "run" / "fit" / "fit.json", tmp_path)
    (own / "parts.py").write_text(PARTS)
    assert "defined in a file of yours, 'sim.py'" in call(*question(own, "--simulator", own / "other.py")).error


def test_a_question_with_a_simulator_that_gives_other_data_is_refused(own):
    (own / "grid.csv").write_text("0 1 2 4\n")
    refused = call(*question(own, "--simulator", own / "sim.py"))
    assert refused.code == 2
    assert "give other data now: 'x' of row" in refused.error
    accepted = call(*question(own, "--simulator", own / "sim.py", "--accept-changes"))
    assert accepted.code == 0, accepted.err
    assert "give other data now" in accepted.err
    assert call(*question(own, "--simulator", own / "sim.py")).code == 2, "for this question alone"
    (own / "late.py").write_text("UNIT = 2.0\n")
    assert "late.py has changed since the fit" in call(*question(own, "--simulator", own / "sim.py")).error


def test_a_pipeline_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "settings.py").write_text("raise ValueError('found it')\n")
    (tmp_path / "analysis.py").write_text("def run(out, *, seed):\n    import settings\n")
    assert "found it" in call("run", tmp_path / "analysis.py", "--out", tmp_path / "out").error


def test_a_store_of_absurd_size_is_refused_at_once(own: Path, tmp_path: Path) -> None:
    """It was listed block by block, for ever."""
    store = own / "run" / "simulations"
    data = json.loads((store / "store.json").read_text())
    data.pop("sha256_of_the_rest", None)
    for rows, words in (
        (10**15, "files, and there may be"),
        (-3, "positive whole numbers"),
        ("many", "positive whole"),
    ):
        (store / "store.json").write_text(json.dumps({**data, "rows": rows}))
        for command in (["check", store], ["train", own / "sim.py", store, "--out", tmp_path / "new"]):
            result = call(*command)
            assert result.code == 2
            assert words in result.error
    result = call("simulate", own / "sim.py", "-n", 10**15, "--out", tmp_path / "store")
    assert result.code == 2
    assert "files, and there may be" in result.error
    assert not (tmp_path / "store").exists()


def test_commands_may_look_at_one_run_folder_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: run_folder(str(tmp_path / "run")), range(400))) == {tmp_path / "run"}
    assert list((tmp_path / "run").iterdir()) == []


def test_leftovers_of_killed_commands_go(tmp_path: Path) -> None:
    dead = ".node7.4194305.1f2e3d4c.tmp"
    gone = [tmp_path / "answers/cell" / f".answer.json{dead}", tmp_path / "fit" / f".fit.json{dead}"]
    gone.append(tmp_path / ".a.node7.7.tmp")  # as earlier versions called it
    kept = [tmp_path / f".draws.h5{dead}", tmp_path / ".draws.h5.another.host.4194305.tmp", tmp_path / ".mine.tmp"]
    for inner in ("fit", "answers/cell"):
        (tmp_path / inner).mkdir(parents=True)
    for file in (*gone, *kept):
        file.write_bytes(b"half")
    for file in (*gone, kept[2]):
        os.utime(file, (0, 0))
    run_folder(str(tmp_path))
    assert [file.exists() for file in gone] == [False] * 3
    assert [file.exists() for file in kept] == [True] * 3


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-x", "@sum", "a\nb", " a", "", "x" * 201])
def test_parameters_that_spreadsheets_would_run_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a parameter is named"):
        Prior(**{name: Normal(0.0, 1.0)})
    with pytest.raises(ValueError, match="a parameter is named"):
        Prior.joint([name, "b"], MultivariateNormal(torch.zeros(2), torch.eye(2)))


def test_names_in_use_stay(tmp_path: Path) -> None:
    names = ["theta_0", "theta[0]", "a.b", "log10 mass", "α", "m/s", "x-y"]
    assert Prior(**{name: Normal(0.0, 1.0) for name in names}).names == tuple(names)
