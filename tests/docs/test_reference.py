"""The reference: every public name has a section, with an example that runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from brief import briefly_trained
from documents import blocks

import sciinf

API = Path(__file__).parent.parent.parent / "docs" / "api"
FLOORS = ("core", "campaigns", "training", "posteriors", "diagnostics", "interfaces.surveys")
PAGES = ("laws.md", "simulate.md", "train.md", "ask.md", "further.md")
SHORTER = {  # than a reader's session
    "2_000, seed=1": "400, seed=1", "1_000, seed=2": "300, seed=2", "== 2_000": "== 400", "(2_000,": "(400,",
    "n=500": "n=100", "epochs=8": "epochs=1", "epochs=3": "epochs=1", "runs=500": "runs=200",
    "rounds=2, simulations=500": "rounds=1, simulations=200", "simulations=500": "simulations=200",
}  # fmt: skip


def sections() -> dict[str, str]:
    """Title of each section -> its text."""
    text = "\n".join((API / page).read_text() for page in PAGES)
    parts = re.split(r"^## (\S+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def home(name: str) -> str:
    """The full name of what sciinf, or the door of one of its floors, offers under a name."""
    doors = (sciinf, *(importlib.import_module(f"sciinf.{floor}") for floor in FLOORS))
    door = next(door for door in doors if name in door.__all__)
    return f"{getattr(door, name).__module__}.{name}"


def test_every_public_name_has_a_section_with_an_example_and_its_docstring() -> None:
    found = sections()
    assert set(sciinf.__all__) <= set(found)
    for name, text in found.items():
        assert [language for language, _ in blocks(text)] == ["python"], name
        path, *_ = re.findall(r"^::: (\S+)$", text, re.MULTILINE)  # a contract may have what it is handed below it
        assert path == ("sciinf.wrappers" if name == "wrappers" else home(name))


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "document"}
    for page in PAGES:
        text = (API / page).read_text()
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        for _, body in blocks(text):
            exec(compile(body, page, "exec"), names)
    assert "rate" in names["answer"].table()  # type: ignore[attr-defined]
