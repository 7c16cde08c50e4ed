"""How many simulations refine an answer."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from sample_run import make_calibration

from sciinf.core import Answer, Draws, Finding, Observable, Trust
from sciinf.core.findings import Cause, Level
from sciinf.diagnostics.right import Kind, local_check
from sciinf.interfaces.commands.caller import CommandLine
from sciinf.interfaces.commands.refine import _made_for, _next, nearest, sizes

LARGER = "next: sciinf infer a.py -n 1400 (up to 5,600 simulations around it)"
CALIBRATE = "next: sciinf calibrate a.py run -n "


@pytest.mark.parametrize(
    ("n", "planned"),
    [(500, (500, 500, 1_000)), (700, (500, 500, 1_000, 800)), (1_499, (749, 749, 1_498, 2_996)),
     (20_000, (10_000, 10_000, 20_000, 40_000))],
)  # fmt: skip
def test_rounds_double_the_simulations_up_to_four_runs_in_all(n, planned):
    assert sizes(n) == planned
    assert sum(planned) <= 4 * n
    assert all(new <= sum(planned[:k]) for k, new in enumerate(planned) if k)


@pytest.mark.parametrize(
    ("state", "kind", "ways"),
    [
        ("passed", Kind.RIGHT, []), ("cannot tell", Kind.RIGHT, []), ("not passed", Kind.RIGHT, []),
        ("not passed", Kind.UNSETTLED, [LARGER]), ("passed", Kind.UNSETTLED, [LARGER]),
        ("cannot tell", Kind.UNTOLD, [LARGER, CALIBRATE]), ("passed", Kind.WRONG, [LARGER]),
        ("not passed", Kind.UNCHECKED, [LARGER]), ("cannot tell", Kind.UNCHECKED, [CALIBRATE, LARGER]),
        ("passed", Kind.LOST, [f"next: {Cause.SUMMARY}", LARGER]),
        ("passed", Kind.UNLIKE, [f"next: {Cause.MODEL}", LARGER]),
    ],
)  # fmt: skip
def test_a_refined_answer_that_is_not_right_has_a_way_on(
    state: Any, kind: Kind, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that did not pass the page said that the next command is named, and none was."""
    monkeypatch.setattr(sys, "argv", ["sciinf", "infer", "a.py", "-n", "700"])
    sim = cast(Any, SimpleNamespace(names=("a",), source=Path("a.py")))
    calibration = replace(make_calibration(sim, torch.Generator().manual_seed(0)), state=state)
    answer = _answer(local_check(kind, ""), calibration=calibration)
    found = _next(sim, Path("run"), answer, 700, CommandLine()).splitlines()
    assert [line.startswith(way) for line, way in zip(found, ways, strict=True)] == [True] * len(ways)
    assert bool(found) == (answer.verdict.level != Level.GOOD)


def _answer(*checks: Finding, **more: Any) -> Answer:
    """Of an observation like the simulations."""
    draws = Draws(("a",), ("",), torch.zeros(2, 1), torch.zeros(2))
    known: dict[str, Any] = {"calibration": None, "trust": Trust(0.4, "", Level.GOOD), "checks": checks}
    return Answer({}, draws, **{**known, **more})


def test_an_answer_is_that_of_its_own_rounds_before_any_that_reach_it() -> None:
    """Rounds around a neighbour, which come first by name, gave another answer when the command was run again."""
    own = SimpleNamespace(observables={"x": Observable((1,))}, is_around=lambda x: float(x["x"]) == 1.0)
    other = SimpleNamespace(observables=own.observables, is_around=lambda x: False)
    own.reaches = other.reaches = lambda x: abs(float(x["x"])) < 2.0
    known = cast(Any, [(Path("a"), other), (Path("b"), own)])
    found = [nearest(known, cast(Any, {"x": np.array([value])})) for value in (1.0, 0.5, 3.0)]
    assert [one and str(one[0]) for one in found] == ["b", "a", None]


@pytest.mark.parametrize(
    ("kind", "its_own", "near"),
    [
        (Kind.UNSEEN, False, False), (Kind.LOST, False, False), (Kind.UNTOLD, False, False),
        (Kind.UNSEEN, True, True), (Kind.WRONG, False, True), (Kind.HINTED, False, True),
    ],
)  # fmt: skip
def test_rounds_around_a_neighbour_refine_an_answer_and_confirm_none(kind: Kind, its_own: bool, near: bool) -> None:
    posterior = SimpleNamespace(
        observables={"x": Observable((1,))}, is_around=lambda x: its_own, reaches=lambda x: True
    )
    known = [(Path("a"), cast(Any, posterior))]
    found = _made_for(known, _answer(local_check(kind, "")), cast(Any, {"x": np.array([0.0])}))
    assert (found is not None) == near
