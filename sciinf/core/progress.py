"""Progress of long jobs: a bar with rate and time left on a terminal, plain lines at intervals elsewhere.

A `Listener` receives the same events in code: which stage runs, and how far it has come.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from sciinf.core import telling

INTERVAL = 10.0


@dataclass(frozen=True)
class Reached:
    """The progress of a job.

    Args:
        done: The number of units that are done.
        total: The number of all units.
        unit: The name of the units, in the plural.
        left: An upper limit to the seconds until the job is done; None if unknown.
        history: For training, the validations so far: rows with "epoch", "train_loss" and "validation_loss".
            The training appends to this sequence.
    """

    done: int
    total: int
    unit: str
    left: float | None = None
    history: Sequence[Mapping[str, float | int]] = ()


class Listener(ABC):
    """An object that receives the progress of what runs inside `heard_by`."""

    @abstractmethod
    def begins(self, stage: str) -> None:
        """Called when a stage begins; the stage before it, if any, is then done."""

    @abstractmethod
    def ends(self) -> None:
        """Called when the running stage is done and no stage follows at once."""

    @abstractmethod
    def reaches(self, how_far: Reached | None) -> None:
        """Called often with the progress of a job in the stage; None when the job is over."""


_HEARD: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def heard_by(*listeners: Listener) -> Iterator[None]:
    """A context in which these listeners receive the progress of all that runs in this thread."""
    token = _HEARD.set(listeners)
    try:
        yield
    finally:
        _HEARD.reset(token)


def stage(name: str) -> None:
    """Tell the listeners that a stage begins."""
    for listener in _HEARD.get():
        listener.begins(name)


def staged() -> None:
    """Tell the listeners that the running stage is done and that no stage follows at once."""
    for listener in _HEARD.get():
        listener.ends()


def reach(how_far: Reached | None) -> None:
    """Tell the listeners the progress of a job; None when the job is over."""
    for listener in _HEARD.get():
        listener.reaches(how_far)


class Progress:
    """A counter of finished rows that shows the progress of a job.

    Args:
        total: The number of all rows.
        done: The number of rows that exist at the start.
        shown: Whether progress is shown. Listeners are told in any case.
        task: The name of the task, such as "simulating".
        unit: The name of the rows, in the plural.
    """

    def __init__(
        self, total: int, done: int, *, shown: bool, task: str = "simulating", unit: str = "simulations"
    ) -> None:
        self.total, self.done, self.failed, self.task, self.unit = total, done, 0, task, unit
        self._start = self._last = time.monotonic()
        self._before = done
        self._bar: Any = _bar() if shown and telling.shown(telling.NOTE) and sys.stderr.isatty() else None
        self._shown = shown

    def __enter__(self) -> Progress:
        reach(Reached(self.done, self.total, self.unit))
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.task, total=self.total, completed=self.done, failed="", rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            reach(None)
        if self._bar is not None:
            self._bar.stop()
        if self._shown and kind is None:
            self._tell()

    def add(self, rows: int, failed: int = 0) -> None:
        """Count a finished block.

        Args:
            rows: The number of its rows.
            failed: How many of its rows failed.
        """
        self.done += rows
        self.failed += failed
        reach(Reached(self.done, self.total, self.unit, self._left()))
        if self._bar is not None:
            text = f"{self.failed:,} failed" if self.failed else ""
            self._bar.update(self._task, completed=self.done, failed=text, rate=f"{_brief(self._rate())} rows/s")
        if self._shown and self.done < self.total and time.monotonic() - self._last >= INTERVAL:
            self._tell()

    def _rate(self) -> float:
        return (self.done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def _left(self) -> float | None:
        """The estimated seconds until all rows are done; None if nothing is done yet."""
        return (self.total - self.done) / self._rate() if self._rate() > 0 else None

    def _tell(self) -> None:
        self._last = time.monotonic()
        parts = [f"{self.done:,} of {self.total:,} {self.unit}", f"{_brief(self._rate())} per second"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        left = self._left()
        if self.done < self.total and left is not None:
            parts.append(f"{left:,.0f} s left")
        telling.tell(", ".join(parts), telling.NOTE if self._bar is None else telling.DETAIL)


def _brief(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _bar() -> Any:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("[red]{task.fields[failed]}"),
    )
    return progress.Progress(*columns, console=Console(stderr=True))
