"""Nothing wrong passes as right: each case as a user meets it, through the command line.

A case is a way in which a wrong answer once came with a green verdict. Tests of the parts stand beside the parts.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import call

LINE = """
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(slope=(Normal(0.0, 1.0), "m/s"), offset=(Normal(0.0, 1.0), "m"))


def track(slope, offset, rng):
    return offset + slope * np.arange(5.0) + rng.normal(size=5)


simulator = wrappers.numpy(track, prior, {"x": Observable((5,), "m", dims=("time",))})
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `line.py`, an observation `seen.csv`, and `run`, what `infer` made of them."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "line.py").write_text(LINE)
    (folder / "seen.csv").write_text("x [m]\n0.2\n1.4\n1.9\n3.2\n3.8\n")
    words = ["--observation", folder / "seen.csv", "--out", folder / "run", "-n", 300, "--calibration", 300]
    result = call("infer", folder / "line.py", *words)
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def line(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may damage."""
    return shutil.copytree(made, tmp_path / "line")


# --- 1: simulations of a simulator that has changed --------------------------------------------------------------


# --- 2: green by weakness -----------------------------------------------------------------------------------------


# --- 3: failures that depend on parameters ------------------------------------------------------------------------


# --- 4: single precision ------------------------------------------------------------------------------------------


# --- 5: discrete data ---------------------------------------------------------------------------------------------


# --- 6: units in files --------------------------------------------------------------------------------------------


# --- 7: files believed --------------------------------------------------------------------------------------------


# --- 8: trainings that end in nonsense ----------------------------------------------------------------------------


# --- 9: stray draws -----------------------------------------------------------------------------------------------


# --- 10: the headline judges the answer that is given -------------------------------------------------------------


# --- 11: outside the prior ----------------------------------------------------------------------------------------


# --- 12: a surrogate's error --------------------------------------------------------------------------------------


# --- 13: answers of several observations --------------------------------------------------------------------------
