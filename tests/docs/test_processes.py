"""The reference of processes: a section for each public class and function, with an example that runs."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from documents import blocks

PAGE = Path(__file__).parent.parent.parent / "docs" / "api" / "processes.md"
MODULES = ("reactions", "sde", "noise", "points", "driven_events")


def test_every_public_name_has_a_section_and_the_examples_run() -> None:
    text = PAGE.read_text()
    parts = re.split(r"^## (\S+)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    public = {}
    for name in MODULES:
        module = importlib.import_module(f"sciinf.simulators.dynamics.{name}")
        for key, value in vars(module).items():
            mine = getattr(value, "__module__", "") == module.__name__ and not key.startswith("_")
            if mine and (inspect.isfunction(value) or (inspect.isclass(value) and not inspect.isabstract(value))):
                public[key] = f"{module.__name__}.{key}"
    public["Plan"] = "sciinf.simulators.wrappers.hidden_plans.Plan"  # beside others that users do not call
    assert set(found) == set(public)
    for name, section in found.items():
        assert [language for language, _ in blocks(section)] == ["python"], name
        assert re.findall(r"^::: (\S+)$", section, re.MULTILINE) == [public[name]]
    names: dict[str, object] = {"__name__": "document"}
    for _, body in blocks(text):
        exec(compile(body, "processes.md", "exec"), names)
    assert names["days"].shape == (100, 15, 2)  # type: ignore[attr-defined]
