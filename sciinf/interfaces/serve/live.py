"""Progress of a run for browsers that watch it: `events.jsonl` (`interfaces.run_events`) as Server-Sent Events.

A browser first gets the events that describe the whole latest run, and then new events as they come. Every few seconds,
an `event: pulse` also tells how long ago the run gave its last sign of life. A run that was killed gives none.

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

_EVERY = 0.5  # Seconds between two looks at the file.
_DEAD = 4 * RENEWED  # Seconds without a sign of life after which a run is taken to be over.
_ANEW = 3_000  # Milliseconds after which a browser that lost the connection asks again.


@final
class Live:
    """Sends the events of runs to a limited number of listeners, to each for a limited time.

    Args:
        most: Largest number of listeners at once.
        seconds: Longest time for which one listener is served, in seconds; a browser then asks again.
    """

    def __init__(self, most: int = 32, seconds: float = 3_600.0) -> None:
        self._most, self._seconds, self._listening = most, seconds, 0

    @property
    def full(self) -> bool:
        """Whether there is no room for another listener."""
        return self._listening >= self._most

    async def follow(self, folder: Path) -> AsyncIterator[bytes]:
        """Send the events of a run as `text/event-stream`, until the listener leaves or its time is over.

        Args:
            folder: The run folder. As long as it has no `events.jsonl`, only pulses are sent.

        Yields:
            Text of whole events, as bytes.
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
    """Whether a run in a folder still goes on, and has not finished its first answers.

    A model that is opened during that time would never get the parts still to come: a calibration, answers.
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
    """Events of a file from a byte position on, and the next position; -1 asks for the whole latest run."""
    try:
        events, found = events_from(file, max(place, 0))
    except OSError:  # The file does not exist yet, or no longer exists.
        return [], -1
    return (latest_run(events) if place < 0 or found < place else events), found


def _silent(file: Path) -> float | None:
    """Seconds since the file was last written, which is the run's last sign of life; None without a file."""
    try:
        return max(0.0, round(time.time() - file.stat().st_mtime, 1))
    except OSError:
        return None


def _said(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event, separators=(',', ':'), allow_nan=False)}\n\n".encode()
