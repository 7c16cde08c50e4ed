"""Benchmarks find the programs they start, and say what they could not run."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sciinf.core.loading import load_module


def test_programs_of_this_python_are_found_without_its_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    load_module(root / "benchmarks" / "reporting.py").arguments("")
    assert Path(shutil.which("torchrun") or "").parent == Path(sys.executable).parent


@pytest.mark.skipif(find_spec("schemathesis") is not None, reason="schemathesis is installed")
def test_a_package_that_is_missing_is_no_failure(root: Path, tmp_path: Path) -> None:
    serve = load_module(root / "benchmarks" / "serve.py")
    failed, said = serve._schemathesis("http://127.0.0.1:1", "1", tmp_path)
    assert (failed, "package schemathesis is not installed" in said) == (None, True)
