"""How a long job is going: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from sciinf import telling

INTERVAL = 10.0


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
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.task, total=self.total, completed=self.done, failed="", rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._shown and kind is None:
            self._tell()

    def add(self, rows: int, failed: int = 0) -> None:
        """Take note of a finished block."""
        self.done += rows
        self.failed += failed
        if self._bar is not None:
            text = f"{self.failed:,} failed" if self.failed else ""
            self._bar.update(self._task, completed=self.done, failed=text, rate=f"{_brief(self._rate())} rows/s")
        if self._shown and self.done < self.total and time.monotonic() - self._last >= INTERVAL:
            self._tell()

    def _rate(self) -> float:
        return (self.done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def _tell(self) -> None:
        self._last = time.monotonic()
        parts = [f"{self.done:,} of {self.total:,} {self.unit}", f"{_brief(self._rate())} per second"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.done < self.total and self._rate() > 0:
            parts.append(f"{(self.total - self.done) / self._rate():,.0f} s left")
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
