"""What goes on in a run, to browsers that watch: `events.jsonl` (`interfaces.run_events`) as Server-Sent Events.

Who comes late is told first what tells the whole of the latest run, and then what is new. Beside the events, a line
`event: pulse` says every few seconds how long ago the run last gave a sign of life: a run that was killed gives none.

References:
    | Server-sent events (WHATWG), https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, final

from sciinf.interfaces.figures.progress_page import PLANNED
from sciinf.interfaces.run_events import EVENTS, RENEWED, events_from, latest_run

_EVERY = 0.5  # seconds between two looks at the file
_DEAD = 4 * RENEWED  # seconds without a sign of life after which a run is over
_ANEW = 3_000  # milliseconds after which a browser that was cut off asks again


@final
class Live:
    """Follows runs for so many listeners at once, each for so long.

    Args:
        most: Listeners at once.
        seconds: How long one is served at most; a browser then asks again.
    """

    def __init__(self, most: int = 32, seconds: float = 3_600.0) -> None:
        self._most, self._seconds, self._listening = most, seconds, 0

    @property
    def full(self) -> bool:
        """Whether there is no room for another listener."""
        return self._listening >= self._most

    async def follow(self, folder: Path) -> AsyncIterator[bytes]:
        """The events of a run, as `text/event-stream`, until the listener goes or its time is over.

        Args:
            folder: The run folder. Where it has no `events.jsonl` yet, there is a pulse alone.

        Yields:
            Whole events.
        """
        self._listening += 1
        try:
            yield f"retry: {_ANEW}\n\n".encode()
            file, place, pulse, until = folder / EVENTS, -1, 0.0, time.monotonic() + self._seconds
            while time.monotonic() < until:
                events, place = await asyncio.to_thread(_new, file, place)
                if events:
                    yield b"".join(map(_said, events))
                if time.monotonic() >= pulse:
                    pulse = time.monotonic() + RENEWED
                    yield b"event: pulse\n" + _said({"silent": _silent(file)})
                await asyncio.sleep(_EVERY)
        finally:
            self._listening -= 1


def unfinished(folder: Path) -> bool:
    """Whether a run goes on in a folder, and is not through with its first answers.

    What is opened then would stay without what is still to come: a calibration, answers.
    """
    silent = _silent(folder / EVENTS)
    if silent is None or silent > _DEAD:
        return False
    events, _ = _new(folder / EVENTS, -1)
    stages = [event.get("stage") for event in events if event["event"] == "stage"]
    if not events or events[-1]["event"] in ("done", "stopped"):
        return False
    return not stages or str(stages[-1]) in PLANNED or str(stages[-1]).startswith("run ")


def _new(file: Path, place: int) -> tuple[list[dict[str, Any]], int]:
    """What is new from a place on, and the next place; at first, -1, what tells the whole of the latest run."""
    try:
        events, found = events_from(file, max(place, 0))
    except OSError:  # not there yet, or not any more
        return [], -1
    return (latest_run(events) if place < 0 or found < place else events), found


def _silent(file: Path) -> float | None:
    """Seconds since the last sign of life; None where there never was one."""
    try:
        return max(0.0, round(time.time() - file.stat().st_mtime, 1))
    except OSError:
        return None


def _said(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event, separators=(',', ':'), allow_nan=False)}\n\n".encode()
