"""What is proposed after answers: by the causes of their verdicts, and nothing where an answer can be relied on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from sample_run import make_calibration

from sciinf.core import Answer, Draws, Finding, Trust
from sciinf.core.findings import Cause, Level
from sciinf.diagnostics.right import Kind, local_check
from sciinf.interfaces.commands.steps import next_steps

COMMANDS = {
    Cause.AROUND: lambda: "sciinf infer --refine auto",
    Cause.SIMULATIONS: lambda: "sciinf infer -n 200",
    Cause.FRESH: lambda: "sciinf infer --calibration 200",
}
RIGHT = local_check(Kind.RIGHT, "", second=True)


def answer(*checks: Finding, state: str = "passed", name: str = "seen") -> Answer:
    """Of an observation like the simulations."""
    one = cast(Any, SimpleNamespace(names=("a",)))
    calibration = replace(make_calibration(one, torch.Generator().manual_seed(0)), state=cast(Any, state))
    draws = Draws(("a",), ("",), torch.zeros(2, 1), torch.zeros(2))
    return Answer({}, draws, calibration, Trust(0.4, "", Level.GOOD), checks=checks, name=name)


def test_nothing_is_proposed_for_an_answer_that_can_be_relied_on() -> None:
    """An answer that a second network had confirmed was told to train on more, for its calibration did not pass."""
    for state in ("passed", "cannot tell", "not passed"):
        for check in (RIGHT, local_check(Kind.RIGHT, "")):
            found = answer(check, state=state)
            assert found.verdict.level == Level.GOOD
            assert next_steps([found], COMMANDS) == ""
    assert next_steps([], COMMANDS) == ""


def test_a_cause_without_a_command_is_said_as_it_is() -> None:
    strange = Finding("residuals", Level.ALARM, "it lacks something", cause=Cause.MODEL)
    assert next_steps([answer(RIGHT, strange)], COMMANDS) == f"next: {Cause.MODEL}"


def test_simulations_around_it_are_a_way_out_where_a_summary_loses_something() -> None:
    for kind in (Kind.WRONG, Kind.LOST):
        found = next_steps([answer(local_check(kind, "", cause=Cause.SUMMARY))], COMMANDS)
        assert found.splitlines() == [f"next: {Cause.SUMMARY}", "next: sciinf infer --refine auto"]


def test_nothing_is_said_where_nothing_more_can_be_done_about_a_cause() -> None:
    wrong = answer(local_check(Kind.WRONG, ""))
    assert next_steps([wrong], COMMANDS) == "next: sciinf infer --refine auto"
    assert next_steps([wrong], {**COMMANDS, Cause.AROUND: lambda: ""}) == ""


def test_the_gravest_comes_first_within_an_answer_and_among_answers() -> None:
    prior = Finding("prior bounds", Level.CAUTION, "", cause=Cause.PRIOR)
    few = answer(local_check(Kind.UNTOLD, ""), state="cannot tell", name="few")
    assert next_steps([few], COMMANDS).splitlines() == [
        "next: sciinf infer --refine auto",
        "next: sciinf infer --calibration 200",
    ]
    careful = answer(RIGHT, prior, name="careful")
    wrong = answer(local_check(Kind.WRONG, ""), prior, name="wrong")
    relied = answer(RIGHT, name="relied on")
    assert [one.verdict.level for one in (careful, wrong, relied)] == ["caution", "alarm", "good"]
    assert next_steps([relied, careful, wrong], COMMANDS).splitlines() == [
        "next, for wrong: sciinf infer --refine auto",
        f"next, for careful: {Cause.PRIOR}",
    ]


def test_a_command_that_is_against_several_causes_is_named_once() -> None:
    both = {**COMMANDS, Cause.SIMULATIONS: COMMANDS[Cause.AROUND]}
    first = answer(local_check(Kind.UNSETTLED, ""), state="not passed", name="first")
    assert len(first.verdict.causes) == 2
    assert next_steps([first], both) == "next: sciinf infer --refine auto"
    second = answer(local_check(Kind.WRONG, ""), name="second")
    assert next_steps([first, second], both) == "next, for first, second: sciinf infer --refine auto"
