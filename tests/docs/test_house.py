"""The house as `docs/house.py` measures and draws it: circles are found, and the picture has every floor."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sciinf.core.simulator import load_module

ROOT = Path(__file__).parents[2]
FLOORS = {
    "core",
    "networks",
    "simulators",
    "campaigns",
    "training",
    "posteriors",
    "diagnostics",
    "emulators",
    "interfaces",
    "lab",
}


@pytest.fixture(scope="module")
def measured() -> Any:
    return load_module(ROOT / "docs" / "house.py").House(ROOT)


def test_floors_are_folders_and_all_code_is_on_one(measured: Any) -> None:
    assert set(measured.order) == FLOORS
    assert {floor.name for floor in (ROOT / "sciinf").iterdir() if (floor / "__init__.py").is_file()} == FLOORS
    doors = {name for name in measured.files if not measured.floor(name)}
    assert doors == {"sciinf", "sciinf.__main__", "sciinf.cli", "sciinf.wrappers"}


def test_no_modules_import_each_other_around_a_circle(measured: Any) -> None:
    assert measured.circles() == []


def test_floors_are_found_by_purpose(measured: Any) -> None:
    """Most imports stay on their floor, and few modules are reached by nothing that users call."""
    assert measured.share_that_stays() >= 0.69
    assert len(measured.only_imported_directly()) <= 5


def test_picture_and_list_have_every_floor_and_file(measured: Any) -> None:
    picture, listing = measured.picture(), measured.listing()
    assert set(re.findall(r">(\w+)/</text>", picture)) == FLOORS
    assert all(
        measured.order.index(a) > measured.order.index(b) for a, b in re.findall(r">(\w+) imports (\w+):", picture)
    )
    named = [name for name, file in measured.files.items() if measured.floor(name) and file.name != "__init__.py"]
    assert all(f"`{'/'.join(name.split('.')[2:])}.py`" in listing for name in named)


@pytest.mark.slow
def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sciinf", tmp_path / "sciinf", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "sciinf" / "core" / "draws.py"
    file.write_text(file.read_text() + "\n\ndef _hidden() -> None:\n    from sciinf.core.answer import Answer\n")
    planted = load_module(ROOT / "docs" / "house.py").House(tmp_path)
    assert any({"sciinf.core.answer", "sciinf.core.draws"} <= set(part) for part in planted.circles())
