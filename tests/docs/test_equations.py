"""The reference of equations: sections name what they show, and the examples run one after the other."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from documents import blocks

PAGE = Path(__file__).parent.parent.parent / "docs" / "api" / "equations.md"
SHOWN = {
    "polynomials": "simulators.dynamics.term_library",
    "Library": "simulators.dynamics.term_library",
    "Paths": "simulators.wrappers.term_equations",
    "Rates": "simulators.wrappers.term_equations",
    "equations": "simulators.wrappers.term_equations",
    "EquationPosterior": "posteriors.equations",
    "Expressions": "simulators.dynamics.expressions",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_name_has_a_section_and_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text()
    parts = re.split(r"^## (\S+)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(found) == set(SHOWN)
    for name, section in found.items():
        assert [language for language, _ in blocks(section)] == ["python"], name
        assert re.findall(r"^::: (\S+)$", section, re.MULTILINE) == [f"sciinf.{SHOWN[name]}.{name}"]
        assert getattr(importlib.import_module(f"sciinf.{SHOWN[name]}"), name).__doc__
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "document"}
    for _, body in blocks(text):
        exec(compile(body, "equations.md", "exec"), names)
    assert names["answer"].parameters["d(prey) has prey*predator"]["yes"] > 0.9  # type: ignore[attr-defined]
