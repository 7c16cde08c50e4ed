"""Server-Sent Events of a run: all of the latest run for who comes late, what is new, and signs of life."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from sciinf.interfaces.run_events import line_of
from sciinf.interfaces.serve import live
from sciinf.interfaces.serve.live import Live, unfinished


def event(kind: str, **about: object) -> str:
    return line_of({"event": kind, "at": 1.0, **about})


def parsed(chunks: list[bytes]) -> list[tuple[str, dict]]:
    """(kind, data) of each whole event."""
    found = []
    for block in b"".join(chunks).decode().split("\n\n"):
        lines = dict(row.split(": ", 1) for row in block.splitlines())
        if "data" in lines:
            found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


def heard(folder: Path, seconds: float = 0.2, during: tuple[str, ...] = ()) -> list[tuple[str, dict]]:
    """What a listener hears, while further text is added to the file."""

    async def listen() -> list[bytes]:
        chunks = []

        async def collect() -> None:
            async for chunk in Live(seconds=seconds).follow(folder):
                chunks.append(chunk)

        task = asyncio.create_task(collect())
        for text in during:
            await asyncio.sleep(0.05)
            with (folder / "events.jsonl").open("a") as opened:
                opened.write(text)
        await task
        return chunks

    return parsed(asyncio.run(listen()))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_EVERY", 0.01)


def test_who_comes_late_hears_of_the_latest_run_alone(tmp_path: Path) -> None:
    losses = "".join(event("loss", epoch=e, train_loss=0.0, validation_loss=0.0) for e in range(5_000))
    reached = "".join(event("reached", done=k, total=9, unit="epochs", left=1.0) for k in range(9))
    text = event("run", title="old", command="") + event("stage", stage="simulate")
    text += event("run", title="new", command="") + event("stage", stage="train") + losses + reached
    (tmp_path / "events.jsonl").write_text(text)
    events = [data for kind, data in heard(tmp_path) if kind == "message"]
    assert events[0]["title"] == "new"
    assert [e["stage"] for e in events if e["event"] == "stage"] == ["train"]
    assert 100 < len([e for e in events if e["event"] == "loss"]) <= 400
    assert [e["epoch"] for e in events if e["event"] == "loss"][-1] == 4_999
    assert [e["done"] for e in events if e["event"] == "reached"] == [8]


def test_a_line_that_is_not_whole_waits_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(event("run", title="a", command=""))
    whole = event("stage", stage="simulate")
    events = heard(tmp_path, 0.4, ("{broken\n[1]\n", whole[:9], whole[9:], event("done")))
    assert [data["event"] for kind, data in events if kind == "message"] == ["run", "stage", "done"]


def test_a_folder_without_events_gives_a_pulse_and_later_all_of_them(tmp_path: Path) -> None:
    events = heard(tmp_path, 0.3, (event("run", title="a", command=""),))
    assert events[0] == ("pulse", {"silent": None})
    assert [data["event"] for kind, data in events if kind == "message"] == ["run"]


def test_numbers_that_are_none_do_not_break_the_stream(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event":"loss","epoch":1,"train_loss":NaN,"validation_loss":Infinity}\n')
    assert heard(tmp_path)[0][1]["train_loss"] is None


def test_listeners_are_counted_and_those_that_left_are_not() -> None:
    async def listen() -> list[bool]:
        many, found = Live(most=1), []
        stream = many.follow(Path("nowhere"))
        found.append(many.full)
        await anext(stream)
        found.append(many.full)
        await stream.aclose()
        return [*found, many.full]

    assert asyncio.run(listen()) == [False, True, False]


def test_a_run_is_unfinished_until_its_first_answers(tmp_path: Path) -> None:
    """While it gives signs of life; one that refines its answers can be asked, and so can one that was killed."""
    file = tmp_path / "events.jsonl"
    assert not unfinished(tmp_path)
    file.write_text(event("run", title="a", command=""))
    assert unfinished(tmp_path)
    file.write_text(event("run", title="a", command="") + event("stage", stage="calibrate"))
    assert unfinished(tmp_path)
    os.utime(file, (time.time() - 60, time.time() - 60))
    assert not unfinished(tmp_path)
    file.write_text(event("run", title="a", command="") + event("stage", stage="refine x, round 1 of up to 3"))
    assert not unfinished(tmp_path)
    file.write_text(event("run", title="a", command="") + event("stage", stage="answer") + event("done"))
    assert not unfinished(tmp_path)
