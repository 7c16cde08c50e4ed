"""What is said while something runs: lines on the terminal, and all of them in the log of the run, `RUN/log.txt`.

Everything goes through Python's logger "sciinf", at one of five levels. Answers go to the standard output, all else to
the standard error. The log has what the terminal leaves out, too.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DETAIL, NOTE, WARNING, ANSWER, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, 35, logging.ERROR
FILE = "log.txt"


class _Terminal(logging.Handler):
    """The two streams, as they are when a line is said."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stdout if record.levelno == ANSWER else sys.stderr
        print(record.getMessage(), file=stream, flush=True)


class _Log(logging.Handler):
    """The log of a run; what is said before its folder is known waits for it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self._file: Path | None = None
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        self._waiting += [f"{when}  {line}\n" for line in record.getMessage().splitlines()]
        self._write()

    def keep_in(self, folder: Path) -> None:
        """Where it lies: in the first folder that is named and there."""
        if self._file is None and folder.is_dir():
            self._file = folder / FILE
            self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        lines, self._waiting = self._waiting, []
        try:
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as opened:
                opened.writelines(lines)
        except OSError as error:  # no reason to lose a run
            _LOGGER.removeHandler(self)
            tell(f"note: the log {self._file} cannot be written ({error.strerror or error}); the rest goes on")


_LOGGER, _TERMINAL = logging.getLogger("sciinf"), _Terminal(NOTE)
_LOGGER.setLevel(DETAIL)
_LOGGER.propagate = False  # what users' own handlers want of it they add to it
_LOGGER.addHandler(_TERMINAL)


def tell(words: str, level: int = NOTE) -> None:
    """Say something: a line, or several.

    Args:
        words: What.
        level: DETAIL, NOTE, WARNING, ANSWER or ERROR.
    """
    _LOGGER.log(level, "%s", words)


def shown(level: int) -> bool:
    """Whether the terminal shows what is said at a level."""
    return level >= _TERMINAL.level


def show_from(level: int) -> None:
    """From now on the terminal shows what is said at this level or above it."""
    _TERMINAL.setLevel(level)


@contextmanager
def logged(asked: str, *, command: bool) -> Iterator[None]:
    """Write down all that is said within, in the folder that `keep_log` names; within another one it does nothing.

    Args:
        asked: The command, or the call, in words.
        command: Whether warnings become lines on the terminal, rather than stay Python's.
    """
    if any(isinstance(handler, _Log) for handler in _LOGGER.handlers):
        yield
        return
    log, before = _Log(), _TERMINAL.level
    _LOGGER.addHandler(log)
    try:
        with warnings.catch_warnings():
            _hear_warnings(command)
            tell(f"$ {asked}", DETAIL)
            yield
    finally:
        _LOGGER.removeHandler(log)
        show_from(before)


def keep_log(folder: Path) -> None:
    """Name the folder of the log, if one is kept."""
    for handler in list(_LOGGER.handlers):
        if isinstance(handler, _Log):
            handler.keep_in(folder)


@contextmanager
def hushed() -> Iterator[None]:
    """Within, nothing is said but errors, warnings are not heard, and no log is kept: another process speaks."""
    before, logs = _TERMINAL.level, [handler for handler in _LOGGER.handlers if isinstance(handler, _Log)]
    for log in logs:
        _LOGGER.removeHandler(log)
    show_from(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log in logs:
            _LOGGER.addHandler(log)
        show_from(before)


def _hear_warnings(command: bool) -> None:
    python = warnings.showwarning

    def hear(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if issubclass(category, UserWarning):
            tell(f"warning: {message}", WARNING if command else DETAIL)
        if not command:
            python(message, category, filename, lineno, file, line)

    warnings.showwarning = hear
