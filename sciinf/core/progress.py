"""How a long job is going: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

Who wants to know more hears of it as a `Listener`: which stage runs, and how far it is.
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
    """How far a job is.

    Args:
        done: What is done of it.
        total: All of it.
        unit: What is counted, in the plural.
        left: Seconds until it is done, at most; None where nothing tells.
        history: Of a training, its validations so far: rows with "epoch", "train_loss" and "validation_loss". It grows.
    """

    done: int
    total: int
    unit: str
    left: float | None = None
    history: Sequence[Mapping[str, float | int]] = ()


class Listener(ABC):
    """Hears of what is done within `heard_by`."""

    @abstractmethod
    def begins(self, stage: str) -> None:
        """A stage begins, and the one before it is done."""

    @abstractmethod
    def ends(self) -> None:
        """The stage that ran is done, and none follows at once."""

    @abstractmethod
    def reaches(self, how_far: Reached | None) -> None:
        """A job of the stage is so far, or over where this is None; called often."""


_HEARD: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def heard_by(*listeners: Listener) -> Iterator[None]:
    """What is done within, in this thread, is told to these listeners."""
    token = _HEARD.set(listeners)
    try:
        yield
    finally:
        _HEARD.reset(token)


def stage(name: str) -> None:
    """Tell whoever listens that a stage begins."""
    for listener in _HEARD.get():
        listener.begins(name)


def staged() -> None:
    """Tell whoever listens that the stage that ran is done, and that none follows at once."""
    for listener in _HEARD.get():
        listener.ends()


def reach(how_far: Reached | None) -> None:
    """Tell whoever listens how far a job is; None where it is over."""
    for listener in _HEARD.get():
        listener.reaches(how_far)


class Progress:
    """Counts rows for somebody who waits; silent when not asked for.

    Args:
        total: Rows in all.
        done: Rows that were there at the start.
        shown: Whether anything is said.
        task: What is being done.
        unit: What a row is, in the plural.
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
        """Take note of a finished block."""
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
        """Seconds until all are done; None where nothing tells."""
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
