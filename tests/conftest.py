"""Fixtures shared by all tests."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

ROOT = Path(__file__).parent.parent

# Tests started in the background inherit an ignored SIGINT, and so would the programs whose Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing that is imported or collected becomes garbage, and looking for it would take a third of the time.
gc.disable()


# Files whose tests take longest run first, so that at the end no process waits for one of them.
LONGEST = (
    *("test_nothing_wrong_passes", "docs/", "engine/test_workers", "simulators/test_contract", "test_bad_input"),
    *("tests/test_c", "estimators/test_contract", "inference/test_mcmc", "samplers/", "trust/test_recalibrate"),
)


def pytest_configure(config: pytest.Config) -> None:
    """At its first import of a day arviz writes a file, and falls over where two processes do so at once."""
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            warnings.simplefilter("ignore")
            importlib.import_module("arviz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order them, those of a file together as before."""
    items.sort(key=lambda item: not any(part in item.nodeid for part in LONGEST))


def pytest_collection_finish() -> None:
    """From here on there is garbage, and it is looked for among what the tests make, now and then."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


# What JAX compiles in one test, process or worker it need not compile in another: kept on disk, for this run alone.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="sciinf-jax-")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)


# The key of a user who has run nothing yet, kept for this run alone.
if "SCIINF_STATE" not in os.environ:
    state = tempfile.mkdtemp(prefix="sciinf-state-")
    os.environ["SCIINF_STATE"] = state
    atexit.register(shutil.rmtree, state, ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Public data sets with reference posteriors, where this machine has them."""
    folder = Path(os.environ.get("SCIINF_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}; set SCIINF_DATA to the folder that holds it")
    return folder


LINE = """
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(slope=(Normal(0.0, 1.0), "m/s"), offset=(Normal(0.0, 1.0), "m"))


def track(slope, offset, rng):
    return offset + slope * np.arange(5.0) + rng.normal(size=5)


simulator = wrappers.numpy(track, prior, {"x": Observable((5,), "m", dims=("time",))})
"""


@pytest.fixture(scope="session")
def line_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `line.py`, an observation `seen.csv`, and `run`, what `infer` made of them."""
    from command_line import call

    folder = tmp_path_factory.mktemp("line")
    (folder / "line.py").write_text(LINE)
    (folder / "seen.csv").write_text("x [m]\n0.2\n1.4\n1.9\n3.2\n3.8\n")
    words = ["--observation", folder / "seen.csv", "--out", folder / "run", "-n", 300, "--calibration", 300]
    result = call("infer", folder / "line.py", *words)
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def line(line_made: Path, tmp_path: Path) -> Path:
    """A copy of `line_made` that a test may damage."""
    return shutil.copytree(line_made, tmp_path / "line")


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Any]:
    """An S3 service, which is empty."""
    from sciinf.core.loading import load_module

    for name in ("obstore", "moto", "flask", "flask_cors", "boto3"):
        pytest.importorskip(name, reason="needs sciinf[objects], and moto's server")
    with load_module(root / "benchmarks" / "object_server.py").serving() as running:
        yield running


@pytest.fixture
def address(server: Any, request: pytest.FixtureRequest) -> str:
    """A place of the test's own there."""
    return f"s3://{server.bucket}/{request.node.name}"


@pytest.fixture(autouse=True)
def one_look(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No second look around an answer, which takes seconds each time; its own tests, and pages, have it."""
    if "docs" not in request.path.parts:
        monkeypatch.setattr("sciinf.interfaces.question.MANY", ())


@pytest.fixture
def another_process() -> None:
    """For a test in which a few rows are simulated in a new process, too."""


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No new process that simulates a few rows again, for it takes seconds to start, but where it is looked at."""
    if "another_process" not in request.fixturenames and "docs" not in request.path.parts:
        monkeypatch.setattr("sciinf.campaigns.new_process.DEVICES", ())


@pytest.fixture
def pictures() -> None:
    """For a test that looks at the pictures of reports: they are drawn."""


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A report's figures are made and not drawn, for drawing takes a second for each report.

    Where pictures are looked at they are drawn: in what `DRAWN` names, in tests that use the fixture `pictures`, and in
    fixtures of modules and sessions.
    """
    looked_at = "pictures" in request.fixturenames or request.path.stem in DRAWN
    if not looked_at and not DRAWN.intersection(request.path.parts):
        monkeypatch.setattr("sciinf.interfaces.figures.svg._rendered", _blank)
        monkeypatch.setattr("sciinf.interfaces.figures.svg._whole", _page)


DRAWN = {"docs", "figures", "serve", "test_report_browser"}


def _blank(figure: Figure) -> bytes:
    """A page of the figure's size with nothing on it."""
    wide, high = (72 * float(inches) for inches in figure.get_size_inches())
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}"></svg>'.encode()


def _page(figure: Figure) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(0, 0, *figure.get_size_inches())
