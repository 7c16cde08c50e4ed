"""The names of the shelf, loaded only when asked for."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from sciinf import wrappers

LIGHT = """
import sys
from sciinf import wrappers
wrappers.numpy, wrappers.jax, wrappers.sbi, wrappers.the_well, wrappers.pdebench, wrappers.write_archive
heavy = {"jax", "sbi", "numpyro", "astropy", "pandas", "scipy", "h5py"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


@pytest.mark.parametrize("name", ["numpy", "jax", "sbi", "tables", "the_well", "pdebench", "write_archive", "archived"])
def test_each_name_is_the_function_of_its_module(name):
    function = getattr(wrappers, name)
    assert inspect.isfunction(function)
    assert getattr(importlib.import_module(function.__module__), name) is function
    assert name in dir(wrappers)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'nunpy'"):
        _ = wrappers.nunpy


@pytest.mark.slow
def test_asking_for_a_wrapper_imports_no_heavy_package():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
