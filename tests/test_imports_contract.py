"""The import contracts of pyproject.toml hold, and break when somebody breaks them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the package in `folder` against the contracts in `folder`."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copy(tmp_path: Path, root: Path) -> Path:
    """A folder with a copy of the package and of the contracts."""
    shutil.copytree(root / "sciinf", tmp_path / "sciinf", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_down_only(root: Path) -> None:
    done = lint_imports(root)
    assert done.returncode == 0, done.stdout


# file to change, line to add at its end, contract that this breaks
PLANTS = {
    "training from estimators": (
        "training/fitting.py",
        "from sciinf.training.estimators.flow import Flow",
        "loop and estimators",
    ),
    "the same, inside a function": (
        "training/fitting.py",
        "def _hidden():\n    from sciinf.training.estimators.flow import Flow",
        "loop and estimators",
    ),
    "the same, by way of the package": (
        "training/fitting.py",
        "def _hidden():\n    import sciinf",
        "loop and estimators",
    ),
    "core from above": (
        "core/prior.py",
        "def _hidden():\n    from sciinf.campaigns import store",
        "Imports go down only",
    ),
    "upwards": ("diagnostics/calibration.py", "import sciinf.interfaces.report", "Imports go down only"),
    "an emulator from another floor": (
        "posteriors/local.py",
        "import sciinf.emulators.operator",
        "Imports go down only",
    ),
    "the lab from another floor": ("interfaces/answer.py", "import sciinf.lab.learned", "Imports go down only"),
    "sideways": ("interfaces/report.py", "from sciinf.interfaces import exports", "meet at answers"),
    "a file nobody placed": ("utils.py", "import math", "Imports go down only"),
    "a simulator by name": ("campaigns/simulation.py", "def _hidden():\n    import simulators", "loaded by path"),
}


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_import_is_found_out(plant: str, copy: Path) -> None:
    name, line, contract = PLANTS[plant]
    file = copy / "sciinf" / name
    file.write_text((file.read_text() if file.exists() else "") + f"\n\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode != 0, done.stdout
    broken = [row for row in done.stdout.splitlines() if row.endswith("BROKEN")]
    assert any(contract in row for row in broken), done.stdout


def test_the_copy_itself_is_sound(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout
