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

from sciinf.commands.caller import CommandLine
from sciinf.commands.refine import _made_for, _next, nearest, sizes
from sciinf.core import Answer, Draws, Finding, Observable, Trust
from sciinf.trust.right import HINTED, LOST, RIGHT, UNSEEN, UNSETTLED, UNTOLD


@pytest.mark.parametrize(
    ("n", "planned"),
    [(500, (500, 500, 500)), (700, (500, 500, 1_000)), (1_499, (749, 749, 1_498, 1_501)),
     (20_000, (10_000, 10_000, 20_000, 20_000))],
)  # fmt: skip
def test_rounds_double_the_simulations_up_to_three_runs_in_all(n, planned):
    assert sizes(n) == planned
    assert sum(planned) <= 3 * n
    assert all(new <= sum(planned[:k]) for k, new in enumerate(planned) if k)


@pytest.mark.parametrize(
    ("state", "level", "verdict", "way_on"),
    [
        ("passed", "good", RIGHT, ""), ("cannot tell", "good", RIGHT, "next: sciinf calibrate a.py run -n "),
        ("not passed", "unknown", UNSETTLED, "next: sciinf infer a.py -n 1400 (up to 4,200 simulations around it)"),
        ("passed", "unknown", UNSETTLED, "next: sciinf infer a.py -n 1400 (up to 4,200 simulations around it)"),
        ("cannot tell", "unknown", UNTOLD, "next: sciinf infer a.py -n 1400 (up to 4,200 simulations around it)"),
        ("passed", "alarm", "not right", "next: sciinf infer a.py -n 1400 (up to 4,200 simulations around it)"),
        ("not passed", "unknown", "not checked", "next: sciinf infer a.py -n 1400 (up to 4,200 simulations around it)"),
    ],
)  # fmt: skip
def test_a_refined_answer_that_is_not_right_has_a_way_on(
    state: Any, level: Any, verdict: str, way_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that did not pass the page said that the next command is named, and none was."""
    monkeypatch.setattr(sys, "argv", ["sciinf", "infer", "a.py", "-n", "700"])
    sim = cast(Any, SimpleNamespace(names=("a",), source=Path("a.py")))
    draws = Draws(("a",), ("",), torch.zeros(2, 1), torch.zeros(2))
    calibration = replace(make_calibration(sim, torch.Generator().manual_seed(0)), state=state)
    answer = Answer(
        {}, draws, calibration, Trust(None, "", "unknown"), checks=(Finding("local check", level, verdict),)
    )
    found = _next(sim, Path("run"), answer, 700, CommandLine())
    assert found.startswith(way_on)
    assert bool(found) == bool(way_on)


def test_an_answer_is_that_of_its_own_rounds_before_any_that_reach_it() -> None:
    """Rounds around a neighbour, which come first by name, gave another answer when the command was run again."""
    own = SimpleNamespace(observables={"x": Observable((1,))}, is_around=lambda x: float(x["x"]) == 1.0)
    other = SimpleNamespace(observables=own.observables, is_around=lambda x: False)
    own.reaches = other.reaches = lambda x: abs(float(x["x"])) < 2.0
    known = cast(Any, [(Path("a"), other), (Path("b"), own)])
    found = [nearest(known, cast(Any, {"x": np.array([value])})) for value in (1.0, 0.5, 3.0)]
    assert [one and str(one[0]) for one in found] == ["b", "a", None]


@pytest.mark.parametrize(
    ("level", "verdict", "its_own", "near"),
    [
        ("good", UNSEEN, False, False), ("caution", LOST, False, False), ("unknown", UNTOLD, False, False),
        ("good", UNSEEN, True, True), ("alarm", "not right", False, True), ("caution", HINTED, False, True),
    ],
)  # fmt: skip
def test_rounds_around_a_neighbour_refine_an_answer_and_confirm_none(
    level: Any, verdict: str, its_own: bool, near: bool
) -> None:
    posterior = SimpleNamespace(
        observables={"x": Observable((1,))}, is_around=lambda x: its_own, reaches=lambda x: True
    )
    draws = Draws(("a",), ("",), torch.zeros(2, 1), torch.zeros(2))
    answer = Answer({}, draws, None, Trust(None, "", "unknown"), checks=(Finding("local check", level, verdict),))
    known = [(Path("a"), cast(Any, posterior))]
    assert (_made_for(known, answer, cast(Any, {"x": np.array([0.0])})) is not None) == near
