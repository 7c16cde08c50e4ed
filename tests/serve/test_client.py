"""The service from Python: a real answer, the same as one that is made here."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import uvicorn
from astropy import units
from served import source

import sciinf
from sciinf.diagnostics.calibration import load_calibration
from sciinf.interfaces.serve.application import ServiceParts, application
from sciinf.interfaces.serve.client import ServiceClient
from sciinf.interfaces.serve.limits import Limits
from sciinf.interfaces.serve.models import Models
from sciinf.interfaces.serve.requests import RequestLimits
from sciinf.interfaces.serve.shares import Shares
from sciinf.interfaces.serve.stored import NOT_MADE
from sciinf.interfaces.serve.workers import AnsweringWorkers

SEEN, OTHER = [0.2, 1.4, 1.9, 3.2, 3.8], [2.2, 1.1, 1.0, -0.1, -0.9]


@pytest.fixture(scope="module")
def runs(line_made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run, and another of the same network that was calibrated on fewer simulations."""
    copy = shutil.copytree(line_made / "run", tmp_path_factory.mktemp("runs") / "copy")
    store = sciinf.campaigns.Store(copy / "calibration_simulations")
    sciinf.calibrate(sciinf.build_posterior(sciinf.load_fit(copy / "fit")), store, copy, rows=150, progress=False)
    return [line_made / "run", copy]


@pytest.fixture(scope="module")
def url(runs: list[Path]) -> Iterator[str]:
    """A service of both on a port, with a token."""
    sources = [source(run) for run in runs]
    parts = ServiceParts(Models(sources), AnsweringWorkers(sources), Shares(), Limits(tokens=["a"]), RequestLimits())
    server = uvicorn.Server(uvicorn.Config(application(parts), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def service(url: str) -> ServiceClient:
    return sciinf.connect(url, token="a")


@pytest.mark.slow
def test_an_answer_from_there_is_one_from_here(service: ServiceClient, line_made: Path) -> None:
    there = service.query({"x": OTHER}, "run", draws=3_000, seed=5)
    posterior = sciinf.load_posterior(line_made / "run")
    here = sciinf.query(posterior, {"x": OTHER}, load_calibration(line_made / "run"), draws=3_000, seed=5)
    assert isinstance(there, sciinf.Answer)
    assert there.calibration is not None
    assert here.calibration is not None
    assert there.calibration.to_json() == here.calibration.to_json()
    assert torch.allclose(there.draws.theta, here.draws.theta, atol=1e-5)
    checks = tuple(one for one in there.checks if one.kind != NOT_MADE)
    assert len(checks) == len(there.checks) - 1
    assert replace(there, checks=checks).table() == here.table()
    assert there.figure("calibration") is not None


@pytest.mark.slow
def test_units_are_converted_and_never_lost(service: ServiceClient) -> None:
    metres = service.query({"x": SEEN}, "run", draws=200)
    millimetres = service.query({"x": [1e3 * v for v in SEEN] * units.mm}, "run", draws=200)
    assert millimetres.parameters["slope"].median == pytest.approx(metres.parameters["slope"].median, abs=1e-4)
    with pytest.raises(ValueError, match="does not convert"):
        service.query({"x": SEEN * units.s}, "run")


@pytest.mark.slow
def test_a_file_is_sent(service: ServiceClient, line_made: Path) -> None:
    found = service.query(line_made / "seen.csv", "run", draws=200)
    assert (found.name, found.read) == ("seen", ("x: 5 values, in m",))
    stored = sciinf.load_answer(line_made / "run")
    assert found.verdict.sentence == stored.verdict.sentence
    assert service.query(line_made / "seen.csv", "run").findings == stored.findings
    with pytest.raises(FileNotFoundError):
        service.query(line_made / "none.csv", "run")


def test_what_goes_wrong_is_said_as_here(service: ServiceClient, url: str) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        service.query({"x": [float("nan")] * 5}, "run")
    with pytest.raises(ValueError, match="no model 'other'"):
        service.query({"x": SEEN}, "other")
    with pytest.raises(ValueError, match="level is a probability"):
        service.query({"x": SEEN}, "run", level=2.0)
    with pytest.raises(PermissionError, match="token"):
        sciinf.connect(url)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        sciinf.connect("http://127.0.0.1:1")


def test_each_run_has_its_own_calibration(service: ServiceClient, runs: list[Path]) -> None:
    found = [service.query({"x": SEEN}, run.name, draws=200).calibration for run in runs]
    assert [one and one.rows for one in found] == [load_calibration(run).rows for run in runs] == [300, 150]
