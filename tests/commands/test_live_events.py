"""`events.jsonl`: what a run writes of how it goes, what it leaves out, and what a kill does to it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brief import briefly_trained
from conftest import LINE

from sciinf import infer
from sciinf.core.progress import Reached, heard_by, reach, stage, staged
from sciinf.interfaces.commands import live_events
from sciinf.interfaces.commands.caller import PythonCall
from sciinf.interfaces.commands.live_events import LiveEvents
from sciinf.interfaces.run_events import events_from, latest_run, line_of


@contextmanager
def told(folder: Path, ends: BaseException | None = None) -> Iterator[LiveEvents]:
    """Events of a run, and what ends it early."""
    try:
        with LiveEvents(folder, "<b>line", PythonCall({"n": "100"}, shown=False)) as events, heard_by(events):
            yield events
            if ends is not None:
                raise ends
    except BaseException as error:
        if error is not ends:
            raise


def written(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_tells_its_stages_and_losses(tmp_path: Path) -> None:
    """Each stage in order, with how far it came; of the training each loss; and the end."""
    (tmp_path / "line.py").write_text(LINE)
    with briefly_trained():
        infer(tmp_path / "line.py", {"x": [0.2, 1.4, 1.9, 3.2, 3.8]}, n=200, out=tmp_path / "run", progress=False)
    events = written(tmp_path / "run")
    assert [e["stage"] for e in events if e["event"] == "stage"][:5] == [
        "look first",
        "simulate",
        "train",
        "calibrate",
        "answer",
    ]
    assert events[0]["event"] == "run"
    assert events[0]["title"] == "track: observation"
    assert events[-1]["event"] == "done"
    reached = [(e["unit"], e["done"] == e["total"]) for e in events if e["event"] == "reached"]
    assert ("simulations", True) in reached
    assert "epochs" in [unit for unit, _ in reached]
    losses = [e for e in events if e["event"] == "loss"]
    rows = (tmp_path / "run" / "fit" / "history.csv").read_text().splitlines()[1:]
    assert losses[-1]["validation_loss"] == pytest.approx(float(rows[-1].split(",")[2]), rel=1e-5)


def test_losses_are_told_once_each_and_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "_EVERY", 0.02)
    history = [{"epoch": e, "train_loss": float(e), "validation_loss": float("nan")} for e in range(3)]
    with told(tmp_path):
        stage("train")
        for epoch in range(3, 6):
            reach(Reached(epoch, 1000, "epochs", 2.0, history))
            time.sleep(0.1)
            history.append({"epoch": epoch, "train_loss": float(epoch), "validation_loss": 1.0})
        history += [{"epoch": e, "train_loss": 0.0, "validation_loss": 0.0} for e in range(6, 1000)]
        reach(Reached(1000, 1000, "epochs", 0.0, history))
    losses = [e for e in written(tmp_path) if e["event"] == "loss"]
    epochs = [e["epoch"] for e in losses]
    assert epochs[:5] == [0, 1, 2, 3, 4]
    assert epochs == sorted(set(epochs))
    assert epochs[-1] == 999
    assert len(epochs) < 70
    assert losses[0]["validation_loss"] is None


def test_a_job_that_tells_often_writes_seldom(tmp_path: Path) -> None:
    with told(tmp_path):
        stage("simulate")
        for done in range(20_000):
            reach(Reached(done, 20_000, "simulations", 1.0))
    assert len(written(tmp_path)) < 10


def test_a_run_that_is_refused_leaves_no_trace(tmp_path: Path) -> None:
    with told(tmp_path, ValueError("no")):
        stage("look first")
    assert not (tmp_path / "events.jsonl").exists()


def test_what_stops_a_run_is_said(tmp_path: Path) -> None:
    with told(tmp_path, ValueError("the disk\nis full")):
        stage("look first")
        stage("simulate")
    assert written(tmp_path)[-1]["event"] == "stopped"
    assert "the disk" in written(tmp_path)[-1]["why"]


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    with told(tmp_path / "gone"):
        stage("look first")
        stage("simulate")
        reach(Reached(1, 2, "simulations"))
        staged()


def test_lines_are_added_and_a_cut_one_costs_nothing_else(tmp_path: Path) -> None:
    """A kill in the middle of a line: what the next run writes begins on a line of its own."""
    file = tmp_path / "events.jsonl"
    before = line_of({"event": "run", "at": 1.0, "title": "old", "command": ""}) + '{"event":"rea'
    file.write_text(before)
    assert events_from(file)[0][-1]["title"] == "old"
    with told(tmp_path):
        stage("simulate")
    assert file.read_text().startswith(before)
    assert [e["event"] for e in events_from(file)[0]] == ["run", "run", "stage", "done"]
    assert [e["event"] for e in latest_run(events_from(file)[0])] == ["run", "stage", "done"]


def test_a_file_that_grew_large_tells_stages_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "LARGEST", 10)
    with told(tmp_path):
        stage("simulate")
        stage("train")
        reach(Reached(1, 2, "epochs"))
    assert [e["event"] for e in written(tmp_path)] == ["run", "stage", "stage", "done"]
