"""A simulator that gives other data in another process is found; a sound one is not blamed, nor what cannot be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import call

from sciinf import check_simulator, load_simulator, simulate
from sciinf.campaigns.new_process import NewProcess, problem_of

MODEL = """
import os

import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

calls = 0


def line(slope, offset, rng):
    global calls
    calls += 1
    return {}


simulator = wrappers.numpy(line, Prior(slope=Normal(0.0, 1.0), offset=Normal(0.0, 1.0)), {{"x": Observable((5,))}})
"""
SOUND = "offset + slope * np.arange(5.0) + rng.normal(size=5)"
SALTED, WARM = f"{SOUND} + hash('ccd') % 1000", f"{SOUND} + (calls > 300)"
FAULTS = [SALTED, WARM]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("another_process")]


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file with the simulator whose data are what the parameter says."""
    file = tmp_path / "line.py"
    file.write_text(MODEL.format(request.param))
    return file


@pytest.mark.parametrize("model", [SOUND], indirect=True)
def test_a_sound_simulator_is_not_blamed(model: Path) -> None:
    report = check_simulator(load_simulator(model))
    assert report.findings == ()


@pytest.mark.parametrize("model", [SALTED], indirect=True)
def test_check_finds_what_differs_between_processes(model: Path) -> None:
    simulator = load_simulator(model)
    (problem,) = check_simulator(simulator, rows=16).problems
    assert "in a new process the same parameters and seed give other data" in problem
    assert check_simulator(simulator, rows=16, anew=False).ok


@pytest.mark.parametrize("model", FAULTS, indirect=True)
def test_simulations_that_another_process_does_not_give_are_refused(model: Path, tmp_path: Path) -> None:
    told = call("simulate", model, "-n", 500, "--out", tmp_path / "store")
    assert "not to be used: in a new process" in told.error
    assert told.code != 0


@pytest.mark.parametrize("model", [WARM], indirect=True)
def test_infer_stops_before_it_trains(model: Path, tmp_path: Path) -> None:
    (tmp_path / "seen.csv").write_text("x\n0.2\n1.4\n1.9\n3.2\n3.8\n")
    words = ["--observation", tmp_path / "seen.csv", "--out", tmp_path / "run", "-n", 100, "--refine", "off"]
    told = call("infer", model, *words).error
    first, later = "keeps something from one call to the next", "not to be used: in a new process"
    assert first in told or later in told, "first where the warm-up ends while rows are compared"
    assert not (tmp_path / "run" / "fit").exists()


@pytest.mark.parametrize("model", [WARM], indirect=True)
def test_a_warm_up_is_found_where_all_simulations_were_made_in_it(model: Path, tmp_path: Path) -> None:
    simulator = load_simulator(model)
    with NewProcess(simulator) as new:
        store = simulate(simulator, tmp_path / "store", 200, progress=False)
        assert problem_of(new.look(store)), "none of these 200 calls is beyond the first 300"


@pytest.mark.parametrize("model", [SALTED], indirect=True)
def test_what_was_accepted_is_told(model: Path, tmp_path: Path) -> None:
    simulator = load_simulator(model)
    with NewProcess(simulator) as new:
        store = simulate(simulator, tmp_path / "store", 20, progress=False)
        assert "in a new process: the same parameters" in new.checked(store, accept_changes=True)
        assert new.checked(store, accept_changes=False) == "", "it is asked once"


@pytest.mark.parametrize("model", [f"os._exit(3) if os.environ.get('PYTHONHASHSEED') else {SOUND}"], indirect=True)
def test_a_new_process_that_dies_is_told_and_blames_nobody(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    simulator = load_simulator(model)
    with NewProcess(simulator) as new:
        store = simulate(simulator, tmp_path / "store", 20, progress=False)
        said = new.checked(store, accept_changes=False)
    assert said.startswith("it was not checked that the simulations in")
    assert said.endswith("come out the same in another process (a new process ended with code 3)")
