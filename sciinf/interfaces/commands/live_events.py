"""What goes on in a run, as `events.jsonl` in its folder (`interfaces.run_events`), for the service's live view.

A thread writes what is new once a second. So whoever simulates or trains is held up by nothing, and a job that tells
thousands of times a second how far it is makes a line a second.
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

_EVERY = 1.0  # seconds between two looks
_LOSSES = 50  # of one look, at most; some of more, evenly


@final
class LiveEvents(Listener):
    """Writes what it hears while it is entered; no fault of the disk ends the run.

    Nothing is written while the first stage has done nothing, so that a run that is refused leaves no trace.

    Args:
        folder: The run folder.
        title: What is inferred.
        caller: Who asked.
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
        """Note what is new since the last look."""
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
        """Add the lines that wait, each whole; the next ones begin a line of their own, whatever was there."""
        if not self._begun or self._failed:
            return
        lines, self._waiting = self._waiting, []
        try:
            if lines:
                cut = not self._renewed and _cut(self.file)  # by a kill, while an earlier run wrote
                with self.file.open("ab") as opened:
                    opened.write(("\n" * cut + "".join(lines)).encode(errors="backslashreplace"))
                self._renewed = time.monotonic()
            elif time.monotonic() - self._renewed >= RENEWED:
                os.utime(self.file)
                self._renewed = time.monotonic()
        except OSError:  # no reason to lose a run; the page and the log tell of it, too
            self._failed = True


def _cut(file: Path) -> bool:
    """Whether the last line of a file has no end."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read() != b"\n"
