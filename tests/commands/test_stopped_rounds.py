"""Rounds around an answer that end early: the answer before them is kept, returned and on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import call

from sciinf import infer, load_answer
from sciinf.campaigns import Store
from sciinf.diagnostics.right import Kind, local_check
from sciinf.interfaces.commands import refine
from sciinf.interfaces.run_events import events_from

RENEWS = '<meta http-equiv="refresh"'


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of small runs get rounds, too."""
    monkeypatch.setattr(refine, "LEAST", 100)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the network of the first round is trained."""

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sciinf.posteriors.refined.train", stopped)


@pytest.mark.slow
@pytest.mark.usefixtures("interrupted")
def test_a_call_that_is_interrupted_in_the_rounds_returns_the_answer_before_them(line: Path, capsys: Any) -> None:
    run = line / "run"
    answer = infer(line / "line.py", line / "seen.csv", n=300, calibration=300, out=run)
    assert answer.posterior == "amortised"
    assert answer.to_json() == load_answer(run).to_json()
    told = capsys.readouterr().err.splitlines()
    assert any(one.startswith("first answer for seen is there; refining it") for one in told)
    assert told[-1].startswith("stopped: this is the best answer so far, and the same call goes on")
    assert len(Store(run / "refined/seen/rounds/round_1/simulations")) == 150, "what was simulated is kept"
    page = (run / "report.html").read_text()
    assert (RENEWS in page, "Running: " in page, 'id="verdict"' in page) == (False, False, True)
    assert events_from(run / "events.jsonl")[0][-1]["event"] == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("interrupted")
def test_a_command_that_is_interrupted_in_the_rounds_ends_and_keeps_the_answer(line: Path) -> None:
    run = line / "run"
    words = ["--observation", line / "seen.csv", "--out", run, "-n", 300, "--calibration", 300]
    result = call("infer", line / "line.py", *words)
    assert result.code == 130
    assert "Ctrl-C keeps the first answer" in result.err
    assert load_answer(run).posterior == "amortised"
    page = (run / "report.html").read_text()
    assert "Stopped in the stage “refine seen, round 1 of up to 4”: it was interrupted." in page
    assert (RENEWS in page, 'id="verdict"' in page) == (False, True)


@pytest.mark.slow
def test_where_no_second_network_can_be_asked_the_page_is_the_report(
    line: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It went on saying that the answer is being confirmed."""

    def refused(*_: Any, **__: Any) -> None:
        raise ValueError("the prior has no density")

    monkeypatch.setattr("sciinf.posteriors.refined.refine_around", refused)
    monkeypatch.setattr(refine, "to_confirm", lambda _: local_check(Kind.UNSEEN, ""))
    monkeypatch.setattr(refine, "doubted", lambda _: False)
    answer = infer(line / "line.py", line / "seen.csv", n=300, calibration=300, out=line / "run")
    assert answer.posterior == "amortised"
    assert "note: no second network could be asked about seen: the prior has no density" in capsys.readouterr().err
    page = (line / "run/report.html").read_text()
    assert (RENEWS in page, "Running: " in page, 'id="verdict"' in page) == (False, False, True)
