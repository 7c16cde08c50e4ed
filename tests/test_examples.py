"""Every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import sciinf

FOLDER = Path(sciinf.__file__).parent


def with_examples() -> list[str]:
    """Modules whose source has examples."""
    files = [file for file in sorted(FOLDER.rglob("*.py")) if ">>> " in file.read_text()]
    parts = [("sciinf", *file.relative_to(FOLDER).with_suffix("").parts) for file in files]
    return [".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts]


def failures(text: str, names: dict[str, object]) -> list[str]:
    """What the examples in a text get wrong."""
    examples = doctest.DocTestParser().get_doctest(text, names, "planted", None, None)
    found: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples, out=found.append)
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_a_wrong_example_is_found_out() -> None:
    assert failures(">>> 1 + 1\n3\n", {})
    assert not failures(">>> 1 + 1\n2\n", {})
