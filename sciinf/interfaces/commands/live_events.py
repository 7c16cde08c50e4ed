"""Write the events of a run into `events.jsonl` in its folder (`interfaces.run_events`), for the service's live view.

A thread writes new events once a second. So simulation and training are not delayed. A job that reports its progress
thousands of times a second makes one line a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

from sciinf.core.progress import Listener, Reached
from sciinf.interfaces.commands.caller import Caller
from sciinf.interfaces.commands.errors import ended_by
from sciinf.interfaces.run_events import EVENTS, LARGEST, RENEWED, line_of

_EVERY = 1.0  # Seconds between two looks for new events.
_LOSSES = 50  # Largest number of losses that one look writes; if there are more, they are thinned evenly.


@final
class LiveEvents(Listener):
    """Listener that writes the events of a run while its context is open; a fault of the disk does not end the run.

    Nothing is written before the first stage has done something, so that a refused run leaves no trace.

    Args:
        folder: The run folder.
        title: Title of the run, which says what is inferred.
        caller: Caller of the run.
    """

    def __init__(self, folder: Path, title: str, caller: Caller) -> None:
        self.file, self._stages = folder / EVENTS, 0
        self._waiting: list[str] = []
        self._reached: Reached | None = None
        self._told: Reached | None = None
        self._history: Sequence[Mapping[str, float | int]] = ()
        self._losses, self._begun, self._failed, self._renewed = 0, False, False, 0.0
        self._job_over = False
        self._over, self._lock = threading.Event(), threading.RLock()
        self._thread = threading.Thread(target=self._go_on, name="sciinf events", daemon=True)
        self._note("run", title=title, command=caller.asked)

    def __enter__(self) -> LiveEvents:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            self._look()
            if error is None:
                self._begun = True
                self._note("done")
            else:
                self._note("stopped", why=ended_by(error))
            self._write()

    def begins(self, stage: str) -> None:
        with self._lock:
            self._look()
            self._stages += 1
            self._begun = self._begun or self._stages > 1
            self._note("stage", stage=stage)
            self._write()

    def ends(self) -> None:
        with self._lock:
            self._look()
            self._note("rest")
            self._write()

    def reaches(self, how_far: Reached | None) -> None:
        self._job_over = how_far is None
        if how_far is not None:
            self._reached = how_far

    def _go_on(self) -> None:
        while not self._over.wait(_EVERY):
            with self._lock:
                self._look()
                self._write()

    def _look(self) -> None:
        """Queue the events that are new since the last look."""
        now, over = self._reached, self._job_over
        self._job_over = False
        if self._large():
            return
        if now is not None and now is not self._told:
            self._told, self._begun = now, True
            self._note_losses(now.history)
            self._note("reached", done=now.done, total=now.total, unit=now.unit, left=now.left)
        if over:
            self._note("over")

    def _note_losses(self, history: Sequence[Mapping[str, float | int]]) -> None:
        if not history:
            return
        if history is not self._history or len(history) < self._losses:
            self._history, self._losses = history, 0
        rows, self._losses = history[self._losses :], len(history)
        step = max(1, -(-len(rows) // _LOSSES))
        for row in rows[::-1][::step][::-1]:
            self._note("loss", **{name: row[name] for name in ("epoch", "train_loss", "validation_loss")})

    def _note(self, kind: str, **about: Any) -> None:
        self._waiting.append(line_of({"event": kind, "at": round(time.time(), 1), **about}))

    def _large(self) -> bool:
        try:
            return self.file.stat().st_size > LARGEST
        except OSError:
            return False

    def _write(self) -> None:
        """Append the queued lines to the file, after a line break if the file ends within a line."""
        if not self._begun or self._failed:
            return
        lines, self._waiting = self._waiting, []
        try:
            if lines:
                # An earlier run that was killed while writing may have left an incomplete line.
                cut = not self._renewed and _cut(self.file)
                with self.file.open("ab") as opened:
                    opened.write(("\n" * cut + "".join(lines)).encode(errors="backslashreplace"))
                self._renewed = time.monotonic()
            elif time.monotonic() - self._renewed >= RENEWED:
                os.utime(self.file)
                self._renewed = time.monotonic()
        except OSError:  # A disk fault must not end the run; the page and the log report progress, too.
            self._failed = True


def _cut(file: Path) -> bool:
    """Whether the last line of a file is incomplete, without a line break at its end."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read() != b"\n"
