"""The reference of latent dynamics: a section for each public name, with an example that runs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from documents import blocks

import sciinf.emulators.processes
from sciinf.emulators import emissions
from sciinf.emulators.latent_dynamics import LatentDynamics
from sciinf.emulators.refinement import Refinement, refined

PAGE = Path(__file__).parent.parent.parent / "docs" / "api" / "latent.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_public_name_has_a_section_and_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    parts = re.split(r"^## (\S+)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    kinds = [getattr(sciinf.emulators.processes, name) for name in sciinf.emulators.processes.__all__]
    laws = [each for name, each in vars(emissions).items() if inspect.isclass(each) and not name.startswith("_")]
    kinds += [each for each in laws if each.__module__ == emissions.__name__] + [Refinement, refined]
    public = {kind.__name__: kind for kind in (*kinds, LatentDynamics) if not inspect.isabstract(kind)}
    assert set(found) == set(public)
    for name, section in found.items():
        assert [language for language, _ in blocks(section)] == ["python"], name
        assert re.findall(r"^::: (\S+)$", section, re.MULTILINE) == [f"{public[name].__module__}.{name}"]
    names: dict[str, object] = {"__name__": "document"}
    for _, body in blocks(text):
        exec(compile(body, "latent.md", "exec"), names)
    assert names["future"].shape == (1, 3)
