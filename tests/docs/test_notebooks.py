"""The notebooks run from the first cell to the last, and what is stored in them is what they give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import notebooks
import pytest
from brief import briefly_trained

from sciinf.core.loading import load_module

ROOT = Path(__file__).parent.parent.parent

SMALL = "n=600"


def kinds(notebook: dict[str, Any]) -> list[list[str]]:
    """What each code cell gives, by kind."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[kind for one in cell["outputs"] for kind in one.get("data", [one["output_type"]])] for cell in cells]


def words(notebook: dict[str, Any]) -> str:
    """All that the cells give, as words."""
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", ())]
    return "\n".join("".join(one.get("text") or one["data"]["text/plain"]) for one in outputs)


def read(name: str) -> dict[str, Any]:
    return json.loads((notebooks.HERE / f"{name}.ipynb").read_text())


@pytest.fixture(scope="module")
def anew(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The notebooks, run with fewer simulations."""
    with pytest.MonkeyPatch.context() as patch, briefly_trained(2):
        found = {}
        for path in notebooks.notebooks():
            patch.chdir(tmp_path_factory.mktemp(path.stem))
            found[path.stem] = notebooks.executed(read(path.stem), lambda text: re.sub(r"\bn=[0-9_]+", SMALL, text))
    return found


@pytest.mark.pages
@pytest.mark.parametrize("name", [path.stem for path in notebooks.notebooks()])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_stored_is_what_the_cells_give(anew, name: str) -> None:
    stored = read(name)
    assert stored["metadata"]["executed"] == notebooks.digest(stored), "run tests/notebooks.py"
    assert kinds(anew[name]) == kinds(stored)
    assert any(kinds(stored))
    assert re.search(r"^calibration  \w", words(stored), re.M), "the answer says how far to believe it"
    assert re.search(r"^trust        \w", words(stored), re.M)


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_three_lines_find_what_is_known_exactly(anew) -> None:
    for notebook, off, wide in ((read("from_sbi"), 0.1, 1.4), (anew["from_sbi"], 0.3, 2.5)):
        found = re.findall(r"(\S+) \+- (\S+), exact (\S+) \+- (\S+)", words(notebook))
        assert len(found) == 2
        for median, sd, exact, width in (map(float, line) for line in found):
            assert abs(median - exact) < off
            assert 1 / wide < sd / width < wide


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_second_recording_is_answered_for_by_the_same_network(anew) -> None:
    for notebook in (anew["first_answer"], read("first_answer")):
        first, second = (float(rate) for rate in re.findall(r"rate +1/h +(\S+)", words(notebook)))
        assert (first, second) == (pytest.approx(0.7, abs=0.2), pytest.approx(1.6, abs=0.5))


def test_a_page_of_the_site_has_the_code_and_all_that_was_stored() -> None:
    pytest.importorskip("mkdocs", reason="the site is made with mkdocs, of the extra `docs`")
    page = load_module(ROOT / "docs" / "hooks.py").notebook_page(read("first_answer"))
    assert page.count("```python\n") == len(kinds(read("first_answer")))
    assert page.count('src="data:image/png;base64,') == 2
    assert "<table" in page


def test_a_cell_that_fails_and_outputs_of_other_cells_are_found_out(tmp_path, monkeypatch) -> None:
    """The planted faults."""
    monkeypatch.chdir(tmp_path)
    notebook = {
        "metadata": {},
        "cells": [{"cell_type": "code", "metadata": {}, "source": ["a = 3\n", "a"], "outputs": []}],
    }
    run = notebooks.executed(notebook)
    assert words(run) == "3"
    run["cells"][0]["source"] = ["a = 4\n", "a"]
    assert run["metadata"]["executed"] != notebooks.digest(run)
    with pytest.raises(NameError):
        notebooks.executed(notebook, lambda text: text.replace("= 3", "= b"))
