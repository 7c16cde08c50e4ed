"""The page of a run from its first second: stages in order, losses, what stopped it; nothing is lost through it."""

from __future__ import annotations

import _thread
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from brief import briefly_trained
from command_line import call
from conftest import LINE
from watching import watched

from sciinf import infer, load_simulator
from sciinf.campaigns import Store
from sciinf.core.progress import Progress, Reached, heard_by, reach, stage, staged
from sciinf.interfaces.commands import live_page, steps
from sciinf.interfaces.commands.caller import PythonCall
from sciinf.interfaces.commands.live_page import LivePage
from sciinf.interfaces.figures.page import page

RENEWS = '<meta http-equiv="refresh"'
REPORT = page("line", "", '<section class="verdict">all is well</section>', {}, "")


def headline(html: str) -> str:
    """The first one."""
    found = re.search(r'class="headline">([^<]*)', html)
    return found[1] if found else ""


def states(html: str) -> dict[str, str]:
    """Stage -> its state and time."""
    rows = re.findall(r'<th scope="row">([^<]*)</th><td class="wrap">([^<]*)</td><td class="n">([^<]*)</td>', html)
    return {stage: " ".join(rest) for stage, *rest in rows}


@contextmanager
def live(folder: Path, ends: BaseException | None = None) -> Iterator[LivePage]:
    """A page that is written as stages begin, and too seldom for a test in between; what ends the run early."""
    try:
        with LivePage(folder, "<b>line</b>", PythonCall({"n": "<b>100"}, shown=False)) as page, heard_by(page):
            yield page
            if ends is not None:
                raise ends
    except BaseException as error:
        if error is not ends:
            raise


def test_a_run_that_is_interrupted_in_training_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the losses before it, and what goes on."""
    monkeypatch.setattr(live_page, "_EVERY", 0.01)
    monkeypatch.setattr(live_page, "_SHARE", 1.0)
    (tmp_path / "line.py").write_text(LINE)
    (tmp_path / "seen.csv").write_text("x [m]\n0.2\n1.4\n1.9\n3.2\n3.8\n")
    file = tmp_path / "run" / "report.html"
    words = ["--observation", tmp_path / "seen.csv", "--out", tmp_path / "run", "-n", 100, "--refine", "off"]

    stopped: list[str] = []

    def stop(text: str) -> None:
        if "epochs, at most" in text and 'class="validation" d="M' in text and not stopped:
            stopped.append(text)
            _thread.interrupt_main()

    with watched(file, stop) as pages:
        result = call("infer", tmp_path / "line.py", *words)
    assert result.code == 130, result.err
    assert f"page         {file} shows" in result.err.splitlines()[0]
    assert headline(pages[0]) == "Running: look first"
    assert all(RENEWS in one and "If that is long ago" in one for one in pages if "Running" in headline(one))
    last = file.read_text()
    assert headline(last) == "Stopped in the stage “train”: it was interrupted."
    assert RENEWS not in last
    assert f"<code>sciinf infer {tmp_path}/line.py" in last
    assert "to come" in states(last)["answer"]
    assert " left" not in headline(last) + states(last)["train"]


def test_all_stages_are_told_in_order_and_then_the_report(line: Path) -> None:
    file = line / "run" / "report.html"
    with watched(file) as pages:
        infer(line / "line.py", line / "seen.csv", n=300, calibration=300, out=line / "run", progress=False)
    running = [one for one in pages if headline(one) == "Running: answer"][-1]
    found = states(running)
    assert list(found) == ["look first", "simulate", "train", "calibrate", "answer"]
    assert all(re.fullmatch(r"done \d.* s", told) for told in list(found.values())[:-1]), found
    assert found["answer"].startswith("running ")
    assert RENEWS not in file.read_text()
    assert "Data and prediction" in file.read_text()


def test_an_error_is_on_the_page_and_nothing_is_markup(tmp_path: Path) -> None:
    with live(tmp_path, ValueError("<b>too fast")) as shown:
        stage("simulate <b>")
        reach(Reached(1, 2, "<b>rows", 3.0))
        assert "about 3.0 s left" not in shown.file.read_text(), "it is not written at each step"
    html = shown.file.read_text()
    assert "simulate &lt;b&gt;”: &lt;b&gt;too fast" in html
    assert "1 of 2 &lt;b&gt;rows" in html
    assert "<b>" not in html.partition("<script")[0]


def test_an_answer_stands_below_what_refines_it(tmp_path: Path) -> None:
    """The report that a stage ended with, and none that was there before or that somebody wrote in between."""
    file = tmp_path / "report.html"
    file.write_text(REPORT)
    with live(tmp_path, KeyboardInterrupt()):
        stage("train")
        file.write_text(REPORT)
        stage("answer")
        assert "all is well" not in file.read_text()
        staged()
        file.write_text(REPORT)
        for name in ("refine line, round 1", "refine line, round 2"):
            stage(name)
            html = file.read_text()
            assert headline(html) == f"Running: {name}"
            assert RENEWS in html
            assert html.count("all is well") == 1
            assert list(states(html))[-1] == name
    html = file.read_text()
    assert "Stopped in the stage “refine line, round 2”" in headline(html)
    assert RENEWS not in html
    assert html.count("all is well") == 1


def test_what_is_over_is_not_said_to_be_left(tmp_path: Path) -> None:
    """A training that ends early is not at epoch 3 of 9 while something else is done."""
    with live(tmp_path) as shown:
        stage("refine line")
        rows = [{"epoch": epoch, "train_loss": 2.0 - epoch, "validation_loss": -epoch} for epoch in (0.0, 1.0, 2.0)]
        reach(Reached(3, 9, "epochs", 0.6, rows))
        reach(None)
        shown._write()
    html = shown.file.read_text()
    assert headline(html) == "Running: refine line"
    assert "the lowest validation loss is −2.000, in epoch 3" in html


@briefly_trained(20)
def test_jobs_tell_how_far_they_are_and_that_they_are_over(line: Path, tmp_path: Path) -> None:
    with live(tmp_path) as shown:
        stage("simulate")
        with Progress(4, 0, shown=False) as bar:
            bar.add(1)
            shown._write()
            assert re.fullmatch(
                "Running: simulate, 1 of 4 simulations, about .* left", headline(shown.file.read_text())
            )
        shown._write()
        assert headline(shown.file.read_text()) == "Running: simulate"
        sim = load_simulator(line / "line.py")
        steps.train(steps.build("flow", sim, 0), Store(line / "run/simulations"), tmp_path, "cpu", 1, progress=False)
        shown._write()
        assert shown._history
        assert headline(shown.file.read_text()) == "Running: simulate"


def test_a_thread_renews_the_time_of_writing_until_the_stage_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_page, "_EVERY", 0.01)
    with live(tmp_path) as shown, watched(shown.file) as pages:
        stage("simulate")
        reach(Reached(1, 2, "simulations", 1.0))
        until = time.monotonic() + 5
        while not any("1 of 2 simulations" in one for one in pages) and time.monotonic() < until:
            time.sleep(0.01)
        staged()
        shown.file.write_text(REPORT)
        time.sleep(0.2)
    assert any("1 of 2 simulations" in one for one in pages)
    assert shown.file.read_text() == REPORT


@pytest.mark.slow
def test_a_page_that_cannot_be_written_loses_nothing(line: Path, capsys: Any) -> None:
    """Neither while the run goes on nor at its end."""
    page = line / "run" / "report.html"
    page.unlink()
    page.mkdir()
    answer = infer(line / "line.py", line / "seen.csv", n=300, calibration=300, out=line / "run")
    assert answer.parameters["slope"].sd > 0
    said = capsys.readouterr().err
    assert said.count(f"note: {page} cannot be written") == 1
    assert "report       not written: Is a directory. The answers are kept; mend this, and `sciinf report" in said
    assert said.count("cannot be written") == (line / "run/log.txt").read_text().count("cannot be written")


def test_earlier_answers_stand_below_the_progress_of_a_run_that_goes_on(line: Path) -> None:
    """They were named and not shown, until there were new ones."""
    with live(line / "run", KeyboardInterrupt()) as shown:
        stage("simulate")
        html = shown.file.read_text()
        assert (headline(html), RENEWS in html) == ("Running: simulate", True)
        assert html.index("Running: simulate") < html.index('id="verdict"') < html.index("Data and prediction")
        assert html.count('id="verdict"') == 1
    html = shown.file.read_text()
    assert (headline(html), RENEWS in html) == ("Stopped in the stage “simulate”: it was interrupted.", False)
    assert html.count('id="verdict"') == 1


@pytest.mark.parametrize(
    ("before", "newer", "taken"),
    [(REPORT, True, True), (REPORT, False, False), ('<p id="progress">Running: train', True, False)],
)
def test_the_report_of_earlier_answers_is_made_anew_unless_it_is_theirs(
    line: Path, tmp_path: Path, before: str, newer: bool, taken: bool
) -> None:
    run = Path(shutil.copytree(line / "run", tmp_path / "run"))
    (run / "report.html").write_text(before)
    made = max(file.stat().st_mtime for file in run.glob("answers/*/answer.json")) + (1 if newer else -1)
    os.utime(run / "report.html", (made, made))
    with live(run) as shown:
        stage("simulate")
        html = shown.file.read_text()
    assert ("all is well" in html, "Data and prediction" in html) == (taken, not taken)


def test_earlier_answers_that_cannot_be_shown_are_named(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_page, "_earlier_answers", lambda _: "")
    with live(line / "run") as shown:
        stage("simulate")
    assert f"The folder has earlier answers; `sciinf report {line}/run` writes their report." in shown.file.read_text()
