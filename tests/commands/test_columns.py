"""Columns of files of observations: `--column OBSERVABLE=COLUMN`, and those that are compared with nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import call

from sciinf import build_posterior, load_answer, load_fit, query
from sciinf.core import read_observation
from sciinf.core.findings import Evidence, Finding, Level
from sciinf.core.verdict import verdict_from

SIMULATOR = """
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers


def own(file):
    return np.loadtxt(file)


simulator = wrappers.numpy(
    lambda a, rng: a + rng.normal(size=3), Prior(a=Normal(0.0, 1.0)), {"v": Observable((3,), "mV")}, observe=READER
)
"""


@pytest.fixture
def simulator(tmp_path: Path) -> Path:
    (tmp_path / "seen.csv").write_text("v,SAP_FLUX [V]\n7,0.001\n7,0.002\n7,0.003\n")
    (tmp_path / "sim.py").write_text(SIMULATOR.replace("READER", "None"))
    return tmp_path / "sim.py"


def test_check_says_which_column_was_read(simulator: Path) -> None:
    words = ["check", simulator, "--observation", simulator.parent / "seen.csv"]
    assert "v: 3 values of SAP_FLUX, V -> mV" in call(*words, "--column", "v=SAP_FLUX").out


def test_wrong_words_for_columns(simulator: Path) -> None:
    words = ["infer", simulator, "-n", 100, "--out", "new", "--observation", simulator.parent / "seen.csv", "--column"]
    assert "'SAP_FLUX' is not OBSERVABLE=COLUMN, such as v=SAP_FLUX" in call(*words, "SAP_FLUX").err
    assert "no observable 'w' to give a column; there is 'v' (3,) [mV]" in call(*words, "w=SAP_FLUX").error
    assert "no column 'FLUX'" in call(*words, "v=FLUX").error
    assert "--column v=SAP_FLUX" in call(*words, "v=FLUX").error


def test_a_reader_of_its_own_is_told_no_columns(simulator: Path) -> None:
    simulator.write_text(SIMULATOR.replace("READER", "own"))
    words = ["infer", simulator, "-n", 100, "--out", "new", "--observation", simulator.parent / "seen.csv"]
    words += ["--column", "v=SAP_FLUX"]
    assert "'own' reads the files, and takes no names of columns: leave out --column" in call(*words).error


def test_times_that_were_not_compared_call_for_care(line: Path) -> None:
    """What could not be told as data were read stands in the answer, and counts; another file is another question."""
    fit, out = load_fit(line / "run" / "fit"), line / "asked"
    (line / "timed.csv").write_text("t,x\n0.5,0.2\n1.5,1.4\n2.5,1.9\n3.5,3.2\n4.5,3.8\n")
    timed, bare = (read_observation(fit.estimator.observables, line / f"{name}.csv") for name in ("timed", "seen"))
    told = query(build_posterior(fit), timed, draws=100, out=out)
    (finding,) = (one for one in told.checks if one.name == "coordinates")
    weighted = Finding("weights", Level.GOOD, "", evidence=Evidence.LIKELIHOOD)
    assert verdict_from([weighted, finding]).level == "caution"
    assert load_answer(out).checks == told.checks
    assert finding not in query(build_posterior(fit), bare, draws=100, out=out).checks
