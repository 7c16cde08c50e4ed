"""Sentences are for people: where each is another one, all that is decided is the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from brief import briefly_trained
from sample_run import make_calibration

from sciinf import infer, load_answer
from sciinf.campaigns import Store
from sciinf.core import Answer, Draws, Finding, Trust
from sciinf.core.estimates import estimates
from sciinf.core.files import read_json, write_json
from sciinf.core.findings import Cause, Level
from sciinf.diagnostics import around, here
from sciinf.diagnostics.here import doubted
from sciinf.diagnostics.right import Kind, local_check
from sciinf.interfaces.answer import save_answer
from sciinf.interfaces.asking import undecided_in
from sciinf.interfaces.commands import refine
from sciinf.interfaces.figures.run_folder import read_runs
from sciinf.interfaces.figures.verdicts import verdict_of
from sciinf.posteriors import changes

OTHER = "xyz"
STATES = ("passed", "cannot tell", "not passed", "not checked")


@contextmanager
def other_words() -> Iterator[None]:
    """Each finding that is made says the same."""
    made = Finding.__post_init__

    def say(self: Finding) -> None:
        made(self)
        object.__setattr__(self, "words", OTHER)
        if "details" in self.figures:
            object.__setattr__(self, "figures", {**self.figures, "details": OTHER})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finding, "__post_init__", say)
        yield


def decided(run: Path) -> dict[str, Any]:
    """All that was decided in a run with one observation, without a word that is for people."""
    found: dict[str, Any] = {
        "rounds": [len(Store(f)) for f in sorted((run / "refined/seen/rounds").glob("round_*/simulations"))]
    }
    for folder in (run, run / "refined/seen"):
        if (folder / "answers/seen/answer.json").is_file():
            said = read_json(folder / "answers/seen/answer.json")
            keys = ("name", "level", "kind", "cause", "evidence")
            found[folder.name] = {
                "verdict": said["verdict"],
                "checks": [[check.get(key) for key in keys] for check in said["checks"]],
                "levels": [said["trust"]["level"], said["calibration"]["state"]],
                "next": re.sub(r" \(.*\)", "", read_json(folder / "provenance.json")["next"]).replace(str(run), ""),
                "shown": verdict_of(next(iter(read_runs(folder).values()))).level,
            }
    return found


@pytest.mark.slow
@pytest.mark.parametrize("confirmed", [False, True])
@briefly_trained(4)
def test_a_run_with_other_words_makes_the_same_rounds_and_answers(
    confirmed: bool, line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same network: rounds that refine an answer, or one that confirms it."""
    for module, name, small in (
        (refine, "LEAST", 100), (refine, "TIMES", 2), (refine, "FRESH", 300), (around, "ROWS", 600),
        (here, "ROWS", 600), (around, "MANY", ()),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, small)
    if confirmed:  # nothing is seen here, nor on average, and two networks may differ by much
        for module, name, large in (
            (here, "_HEAVY", 9.0), (here, "WIDTH", 0.9), (here, "SHIFT", 0.9), (here, "_MUCH", 2.0),
            (here, "_UNUSED", 2.0), (changes, "SHARE", 9.0), (refine, "wrong_on_average", lambda _: False),
            (here, "_SURE", 1e-12),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, large)
        monkeypatch.setattr("sciinf.interfaces.asking.wrong_on_average", lambda _: False)
        monkeypatch.setattr("sciinf.diagnostics.second.wrong_on_average", lambda _: False)
    shutil.rmtree(line / "run/answers")
    shutil.copytree(line / "run", line / "other")
    how: dict[str, Any] = {"n": 300, "calibration": 300, "progress": False}
    plain = infer(line / "line.py", line / "seen.csv", out=line / "run", **how)
    with other_words():
        told = infer(line / "line.py", line / "seen.csv", out=line / "other", **how)
    made, other = decided(line / "run"), decided(line / "other")
    made["other"] = made.pop("run")
    assert made == other
    assert (plain.posterior, told.posterior) == (("amortised",) * 2 if confirmed else ("refined",) * 2)
    assert len(made["rounds"]) == 1 if confirmed else len(made["rounds"]) > 1
    assert (plain.verdict.level, plain.verdict.causes) == (told.verdict.level, told.verdict.causes)
    assert {one.words for one in told.findings} == {OTHER}
    assert OTHER not in {one.words for one in plain.findings}


def rewrite(file: Path) -> None:
    """Replace every sentence of an `answer.json`, or of a `calibration.json`."""
    said = read_json(file)
    said.get("calibration", said)["reasons"] = [OTHER]
    if "checks" in said:
        said["sentence"] = said["trust"]["verdict"] = OTHER
        for check in said["checks"]:
            check["verdict"] = OTHER
            check.get("figures", {}).pop("details", None)
    write_json(file, said)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", [*Kind])
def test_answers_whose_sentences_were_rewritten_are_read_back_as_they_were(
    kind: Kind, state: str, tmp_path: Path
) -> None:
    one = cast(Any, SimpleNamespace(names=("a",)))
    calibration = replace(make_calibration(one, torch.Generator().manual_seed(0)), state=cast(Any, state))
    calibration = calibration if state != "not checked" else None
    draws = Draws(("a",), ("",), torch.arange(20.0)[:, None], torch.zeros(20))
    others = Finding("prior bounds", Level.CAUTION, "it leans on one", cause=Cause.PRIOR), Finding("tails", "good", "")
    for second in (False, True):
        check = local_check(kind, "by much", second=second)
        made = Answer(
            estimates(draws, 0.9),
            draws,
            calibration,
            Trust(0.4, "like them", Level.GOOD),
            checks=(check, *others),
            name="seen",
        )
        save_answer(made, tmp_path / str(second))
        rewrite(tmp_path / str(second) / "answer.json")
        told = None if calibration is None else replace(calibration, reasons=(OTHER,))
        back = load_answer(tmp_path / str(second), told)
        assert {one.words for one in back.checks} == {OTHER}
        assert back.verdict.level == made.verdict.level
        assert back.verdict.causes == made.verdict.causes
        assert (back.verdict.evidence, len(back.verdict.weaker)) == (made.verdict.evidence, len(made.verdict.weaker))
        assert list(map(doubted, back.checks)) == list(map(doubted, made.checks))
        assert (undecided_in(back) is None) == (undecided_in(made) is None)
        assert (refine.to_confirm(back) is None) == (refine.to_confirm(made) is None)
        assert refine.wrong_here(back) == refine.wrong_here(made)


def test_a_run_whose_files_were_rewritten_has_the_same_verdict_and_page(line: Path) -> None:
    run = line / "run"
    before, shown = load_answer(run), verdict_of(read_runs(run)["seen"])
    for file in (run / "answers/seen/answer.json", run / "calibration.json"):
        rewrite(file)
    after, now = load_answer(run), verdict_of(read_runs(run)["seen"])
    assert OTHER not in shown.sentence
    for one, other in ((before.verdict, after.verdict), (shown, now), (before.verdict, now)):
        assert (one.level, one.causes, one.evidence) == (other.level, other.causes, other.evidence)
        assert [[f.name, f.level, f.kind] for f in one.findings] == [[f.name, f.level, f.kind] for f in other.findings]
    assert {one.words for one in now.findings} == {OTHER}
