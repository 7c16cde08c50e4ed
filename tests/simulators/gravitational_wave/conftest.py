"""The simulator of black holes, its files, and the event that both detectors heard first."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sciinf.core import load_simulator

FOLDER = Path(__file__).parents[3] / "simulators" / "gravitational_wave"
FILES = ("H-H1_LOSC_4_V2-1126259446-32.hdf5", "L-L1_LOSC_4_V2-1126259446-32.hdf5")


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER)


@pytest.fixture(scope="module")
def module(simulator):
    return sys.modules[type(simulator).__module__]


@pytest.fixture(scope="module")
def parts(module):
    """The folder's files, by name."""
    return lambda name: sys.modules[f"{module.__name__}.{name}"]


@pytest.fixture(scope="module")
def files(reference_data):
    """Strain of H1 and of L1 around GW150914."""
    return [reference_data / "gw" / name for name in FILES]


@pytest.fixture(scope="module")
def event(simulator, files):
    """GW150914, as one row."""
    return {name: value[None] for name, value in simulator.observe(*files, gps=1126259462.4).items()}
