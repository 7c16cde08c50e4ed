"""Users' files: what lies beside one imports, each file gets its own, and nothing else of the process changes."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from sciinf.campaigns.simulation import simulate
from sciinf.core.loading import at_hand, file_of, load_module, name_of_file
from sciinf.core.simulator import load_simulator

SIMULATOR = """
from torch import distributions as td
import helper
import tools.shift
from tools import scale as scale_of
from sciinf import Prior, wrappers

def model(a, rng):
    import late
    from tools.inner import DEEP
    return [helper.VALUE, tools.shift.VALUE, scale_of.VALUE, late.VALUE, DEEP]

simulator = wrappers.numpy(model, Prior(a=td.Normal(0.0, 1.0)), {"x": (5,)})
"""


def written(folder: Path, value: float) -> Path:
    """A simulator and what it imports, all of whose numbers are the one given."""
    (folder / "tools").mkdir(parents=True, exist_ok=True)
    for name in ("helper", "late", "tools/shift"):
        (folder / f"{name}.py").write_text(f"VALUE = {value}\n")
    (folder / "tools" / "__init__.py").write_text("import tools.shift\n")
    (folder / "tools" / "scale.py").write_text("import helper\nfrom . import shift\nVALUE = helper.VALUE\n")
    (folder / "tools" / "inner.py").write_text("from .shift import VALUE as DEEP\n")
    (folder / "sim.py").write_text(SIMULATOR)
    return folder / "sim.py"


def data_of(simulator) -> list[float]:
    return simulator(torch.zeros(1, 1), generator=torch.Generator()).x["x"][0].tolist()


def test_modules_beside_a_file_import_in_functions_too_and_each_file_has_its_own(tmp_path):
    path = list(sys.path)
    one, two = (load_simulator(written(tmp_path / str(value), value)) for value in (1.0, 2.0))
    assert data_of(two) == [2.0] * 5
    assert data_of(one) == [1.0] * 5, "the fault: a module of the same name is taken from the first folder"
    assert sys.path == path
    assert not {"helper", "late", "tools", "tools.shift"} & set(sys.modules)
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.slow
def test_python_itself_agrees(tmp_path):
    file = written(tmp_path, 3.0)
    file.write_text(SIMULATOR + "\nprint(*model(0.0, None))\n")
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3.0"] * 5


def test_a_file_loaded_again_sees_what_changed_beside_it(tmp_path):
    file = written(tmp_path, 1.0)
    before = load_simulator(file)
    assert data_of(before) == [1.0] * 5
    assert data_of(load_simulator(written(tmp_path, 4.0))) == [4.0] * 5  # of the same size, within the same second


@pytest.mark.slow
def test_workers_import_what_lies_beside(tmp_path):
    store = simulate(
        load_simulator(written(tmp_path / "sim", 1.0)), tmp_path / "s", 8, workers=2, block=4, progress=False
    )
    assert (store.load().x["x"] == 1.0).all()


def test_installed_packages_and_python_come_before_what_only_looks_like_them(tmp_path):
    for name in ("random", "sciinf"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "scipy").mkdir()  # data of somebody's, and no package
    (tmp_path / "click.py").write_text("import random, sciinf, scipy, click\nfound = click.Command\n")
    assert load_module(tmp_path / "click.py").found, "a file that is called like a package it uses gets the package"


def test_relative_imports_of_a_folder_find_what_lies_there_absolutely_too(tmp_path):
    (tmp_path / "__init__.py").write_text("from .part import VALUE\n")
    (tmp_path / "part.py").write_text("import other\nVALUE = other.VALUE\n")
    (tmp_path / "other.py").write_text("VALUE = 5\n")
    assert load_module(tmp_path / "__init__.py").VALUE == 5


def test_an_error_beside_a_file_names_the_file_and_line_it_is_in(tmp_path):
    from sciinf.interfaces.commands.user_files import user_simulator

    file = written(tmp_path, 1.0)
    (tmp_path / "helper.py").write_text("\n\n1 / 0\n")
    with pytest.raises(ValueError, match=r"helper\.py, line 3: ZeroDivisionError"):
        user_simulator(str(file))
    (tmp_path / "helper.py").write_text("def\n")
    with pytest.raises(ValueError, match=r"helper\.py, line 1: "):
        user_simulator(str(file))


def test_names_of_another_machine_become_those_of_the_file_at_hand(tmp_path):
    file = written(tmp_path, 1.0)
    here = name_of_file(file.resolve()).removeprefix("sciinf_file_")
    assert at_hand("sciinf_file_sim_0123456789ab", file) == f"sciinf_file_{here}"
    assert importlib.import_module(f"sciinf_beside_{here}.tools.inner").DEEP == 1.0, "the file has been run"
    assert at_hand("sciinf_beside_sim_0123456789ab.nets.deep", file) == f"sciinf_beside_{here}.nets.deep"
    for other in (
        "sciinf_file_simulator_0123456789ab",
        "os",
        "sciinf.networks.flows.spline",
        "sciinf_file_sim_0123456789abc",
    ):
        assert at_hand(other, file) is None
    assert file_of("sciinf_beside_sim_0123456789ab.nets.deep") == "sim.py"
    assert file_of("sciinf_file_init_0123456789ab.nets") == "__init__.py"


def test_dataclasses_and_later_builtins_work_as_anywhere(tmp_path):
    (tmp_path / "a.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Pair:\n    one: int\n    two: int = 2\n\n\nfound = eval('sum([Pair(1).two, 3])')\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_module(tmp_path / "a.py").found == 5
