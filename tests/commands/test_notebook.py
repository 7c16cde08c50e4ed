"""In a notebook an answer is displayed as soon as it is there, below the cell that still runs."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from sciinf.core import Answer, Draws, Trust
from sciinf.core.estimates import estimates
from sciinf.interfaces.commands.caller import PythonCall

DRAWS = Draws(("rate",), ("1/h",), torch.linspace(0.0, 1.0, 100)[:, None], torch.zeros(100))


def answer() -> Answer:
    return Answer(estimates(DRAWS, 0.9), DRAWS, None, Trust(0.4, "it fits", cast(Any, "good")), name="seen")


@pytest.mark.parametrize(("kernel", "shown", "count"), [(True, True, 1), (True, False, 0), (False, True, 0)])
def test_it_is_published_where_a_kernel_runs(kernel, shown, count, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[dict[str, str]] = []
    shell = SimpleNamespace(has_trait=lambda name: kernel, display_pub=SimpleNamespace(publish=published.append))
    monkeypatch.setitem(sys.modules, "IPython", cast(Any, SimpleNamespace(get_ipython=lambda: shell)))
    PythonCall({}, shown=shown).show([answer()], "report       runs/x/report.html")
    assert len(published) == count
    for data in published:
        assert data["text/html"] == answer()._repr_html_()
        assert answer().verdict.sentence in data["text/html"].replace("&#x27;", "'")
        assert data["text/plain"].startswith(answer().verdict.sentence)


def test_nothing_is_published_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    PythonCall({}, shown=True).show([answer()], "report       runs/x/report.html")
    monkeypatch.setitem(sys.modules, "IPython", cast(Any, SimpleNamespace(get_ipython=lambda: None)))
    PythonCall({}, shown=True).show([answer()], "report       runs/x/report.html")
