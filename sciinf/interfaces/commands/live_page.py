"""The page of a run from its first second: `report.html` shows the progress, until the report takes its place.

A thread writes the page again every few seconds. So the modification time of the page tells whether the run still goes
on, however long a single simulation takes. The thread spends at most a hundredth of the time on writing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import final

from sciinf.core.files import write_bytes
from sciinf.core.progress import Listener, Reached
from sciinf.interfaces.commands.caller import Caller
from sciinf.interfaces.commands.errors import ended_by
from sciinf.interfaces.figures.progress_page import Course, Stage, is_progress, progress_page
from sciinf.interfaces.run_answers import answer_folders, newest_answers

# Least seconds between two writings of the page: without an answer, and with an answer, which makes the page large.
_EVERY, _SELDOM = 2.0, 10.0
_SHARE = 0.01  # Largest share of the time that may be spent on writing pages.


@final
class LivePage(Listener):
    """Listener that writes the progress page while its context is open; if a run ends early, the page says why.

    Args:
        folder: The run folder.
        title: Title of the run, which says what is inferred.
        caller: Caller of the run.
    """

    def __init__(self, folder: Path, title: str, caller: Caller) -> None:
        self.file, self._title, self._caller = folder / "report.html", title, caller
        self._earlier = f"sciinf report {folder}" if answer_folders(folder) else ""
        self._stages: list[Stage] = []
        self._began, self._runs, self._taken_back = 0.0, False, False
        self._reached: Reached | None = None
        self._history: Sequence[Mapping[str, float]] = ()
        self._before = self.file.read_bytes() if self.file.is_file() else None
        self._report, self._follows, self._written, self._noted = "", False, b"", False
        self._pause, self._over, self._lock = _EVERY, threading.Event(), threading.RLock()
        self._thread = threading.Thread(target=self._go_on, name="sciinf page", daemon=True)

    def __enter__(self) -> LivePage:
        if self._earlier:
            self._report = _earlier_answers(self.file.parent)
        self._caller.say(f"page         {self.file} shows how far the run is, and becomes its report")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._taken_back:
            with suppress(OSError):
                self.file.unlink(missing_ok=True) if self._before is None else write_bytes(self.file, self._before)
        elif error is not None and self._stages:
            self._look()
            self._write(ended_by(error))

    def take_back(self) -> None:
        """Restore the earlier page of the folder when the context closes, because the run did nothing."""
        self._taken_back = True

    def begins(self, stage: str) -> None:
        with self._lock:
            self._count()
            self._look()
            self._stages.append(Stage(stage, 0.0))
            self._began, self._runs, self._reached = time.monotonic(), True, None
            self._write()

    def ends(self) -> None:
        with self._lock:
            self._count()
            self._runs, self._follows = False, True

    def reaches(self, how_far: Reached | None) -> None:
        self._reached = how_far
        if how_far is not None and how_far.history:
            self._history = how_far.history

    def _go_on(self) -> None:
        while not self._over.wait(self._pause):
            with self._lock:
                if self._runs:
                    self._write()

    def _count(self) -> None:
        """Update the seconds that the present stage has taken."""
        if self._runs:
            self._stages[-1] = replace(self._stages[-1], seconds=time.monotonic() - self._began)

    def _look(self) -> None:
        """If a report has replaced the page after a stage, show that report below the page from now on."""
        with suppress(OSError):
            if self._follows and (found := self.file.read_bytes()) != self._written:
                self._report = found.decode()

    def _write(self, stopped: str = "") -> None:
        started = time.thread_time()  # CPU time only, because waiting for the disk does not slow the run.
        self._count()
        course = Course(
            title=self._title,
            command=self._caller.asked,
            written=f"{datetime.now().astimezone():%H:%M:%S %Z on %d %B %Y}",
            stages=tuple(self._stages),
            reached=self._reached,
            history=tuple(self._history),  # A copy, because the history grows meanwhile.
            stopped=stopped,
            earlier=self._earlier,
        )
        page = progress_page(course, self._report).encode(errors="backslashreplace")
        try:
            write_bytes(self.file, page)
            self._written = page
        except OSError as error:  # A page that cannot be written must not end the run.
            if not self._noted:
                self._caller.say(f"note: {self.file} cannot be written ({error.strerror or error}); the rest goes on")
            self._noted = True
        self._pause = max(_SELDOM if self._report else _EVERY, (time.thread_time() - started) / _SHARE)


def _earlier_answers(folder: Path) -> str:
    """The report of the answers that a run folder holds before its run continues; "" if it cannot be made.

    The page in the folder is used if it is a report and is not older than the answers.
    """
    from sciinf import write_report

    page, answers = folder / "report.html", newest_answers(folder).values()
    try:
        made = page.stat().st_mtime_ns if page.is_file() else 0
        if all((one / "answer.json").stat().st_mtime_ns <= made for one in answers):
            if not is_progress(found := page.read_text()):
                return found
        return write_report(folder).read_text()
    except (OSError, ValueError, KeyError, TypeError):
        return ""
