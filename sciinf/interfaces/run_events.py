"""`events.jsonl` in a run folder: the events of the run, for programs that watch it, as one JSON object per line.

| event | meaning, and its fields beside `at`, seconds since 1970 |
|---|---|
| `run` | a run begins: `title`, what is inferred; `command`, which continues the run if it was stopped |
| `stage` | the previous stage is done, and `stage` begins |
| `rest` | the present stage is done, and no other stage follows at once |
| `reached` | progress of the stage: `done` of `total` `unit`; `left`, seconds until the stage is done, or null |
| `loss` | losses of a training after `epoch`: `train_loss` and `validation_loss`, null if they are not finite |
| `over` | a part of the stage is done |
| `done` | the run is done |
| `stopped` | the run was stopped: `why`, in a sentence |

Lines are only added; no line is ever changed. The modification time of the file is renewed every few seconds while the
run goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
RENEWED = 5.0  # Seconds after which the modification time of the file is renewed.
LARGEST = 8_000_000  # Size in bytes above which the file gets no more progress and losses, only the stages.
KINDS = frozenset({"run", "stage", "rest", "reached", "loss", "over", "done", "stopped"})


def line_of(event: Mapping[str, Any]) -> str:
    """Write an event as one line of JSON; a number that is not finite becomes null."""
    known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.items()}
    return json.dumps(known, separators=(",", ":"), allow_nan=False) + "\n"


def event_of(line: bytes) -> dict[str, Any] | None:
    """Read the event in a line; None if the line is damaged, or if the event is of an unknown kind."""
    try:
        event = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and event.get("event") in KINDS else None


def events_from(file: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Read the events of a file from a given position to its end.

    Args:
        file: The file.
        start: Position in bytes where reading begins. If the file is shorter than this, it was begun anew, and is read
            from its beginning.

    Returns:
        The events, and the position where the next event will begin. An incomplete last line is not read yet.

    Raises:
        OSError: If the file cannot be read.
    """
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        start = start if start <= size else 0
        opened.seek(start)
        read = opened.read(2 * LARGEST)
    whole = read[: read.rfind(b"\n") + 1]
    found = (event_of(line) for line in whole.splitlines())
    return [event for event in found if event is not None], start + len(whole)


def latest_run(events: Iterable[dict[str, Any]], losses: int = 400) -> list[dict[str, Any]]:
    """Events that describe the latest run: its stages, the progress of each, and the losses of its latest training.

    Args:
        events: All events of a file.
        losses: Largest number of losses; if there are more, they are thinned evenly.
    """
    course: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for event in events:
        kind = event["event"]
        if kind == "run":
            course, lost = [], []
        if kind == "loss":
            again = bool(lost) and not _number(event.get("epoch")) > _number(lost[-1].get("epoch"))
            lost = [] if again else lost
            lost.append(event)
            continue
        if kind in ("reached", "over") and course and course[-1]["event"] in ("reached", "over"):
            course.pop()
        course.append(event)
    step = max(1, -(-len(lost) // losses))
    thinned = [lost[k] for k in range(len(lost) - 1, -1, -step)][::-1]
    return course[:1] + thinned + course[1:] if course else thinned


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -math.inf
