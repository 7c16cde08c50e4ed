"""`events.jsonl` in a run folder: what went on, and goes on, in the run, for whoever watches; one JSON object a line.

| event | what it has beside `at`, seconds since 1970 |
|---|---|
| `run` | a run begins: `title`, what is inferred; `command`, which goes on where it is stopped |
| `stage` | the stage before is done, and `stage` begins |
| `rest` | the stage that ran is done, and none follows at once |
| `reached` | how far the stage is: `done` of `total` `unit`; `left`, seconds until it is done, or null |
| `loss` | of a training, after `epoch`: `train_loss` and `validation_loss`, null where they are not finite |
| `over` | a part of the stage is done |
| `done` | the run is done |
| `stopped` | the run was stopped: `why`, in a sentence |

Lines are added, and none is changed. Its time of writing is renewed every few seconds while the run goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
RENEWED = 5.0  # seconds after which the file's time of writing is renewed
LARGEST = 8_000_000  # bytes beyond which it says no more than which stages begin
KINDS = frozenset({"run", "stage", "rest", "reached", "loss", "over", "done", "stopped"})


def line_of(event: Mapping[str, Any]) -> str:
    """An event as its line; a number that is not finite is null."""
    known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.items()}
    return json.dumps(known, separators=(",", ":"), allow_nan=False) + "\n"


def event_of(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None where it is damaged, or of another kind."""
    try:
        event = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and event.get("event") in KINDS else None


def events_from(file: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The events of a file from a place on.

    Args:
        file: The file.
        start: The place, in bytes. Where the file is shorter, it was begun anew, and is read from its beginning.

    Returns:
        The events, and the place where the next one will begin: what follows the last end of a line is not written
        to its end yet.

    Raises:
        OSError: If it cannot be read.
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
    """What tells the whole of the latest run: its stages, how far each came, and the losses of its latest training.

    Args:
        events: All events of a file.
        losses: How many losses at most; some of more, evenly.
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
