"""Messages during a run: on the terminal, and all of them in the run's log file, `RUN/log.txt`.

All messages go through Python's logger "sciinf", at one of five levels. On the terminal, answers go to the
standard output and all other messages to the standard error. The log file also holds messages that the
terminal does not show.
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
    """The handler that prints to the standard output or error, as they are set when a message arrives."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stdout if record.levelno == ANSWER else sys.stderr
        print(record.getMessage(), file=stream, flush=True)


class _Log(logging.Handler):
    """The handler that writes a run's log file; it keeps messages until the run's folder is known."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self._file: Path | None = None
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        self._waiting += [f"{when}  {line}\n" for line in record.getMessage().splitlines()]
        self._write()

    def keep_in(self, folder: Path) -> None:
        """Set the folder of the log file, unless it is set already; a missing folder is ignored."""
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
        except OSError as error:  # A run must not end because its log cannot be written.
            _LOGGER.removeHandler(self)
            tell(f"note: the log {self._file} cannot be written ({error.strerror or error}); the rest goes on")


_LOGGER, _TERMINAL = logging.getLogger("sciinf"), _Terminal(NOTE)
_LOGGER.setLevel(DETAIL)
_LOGGER.propagate = False  # A user's handler for these messages belongs to this logger, not to the root.
_LOGGER.addHandler(_TERMINAL)


def tell(words: str, level: int = NOTE) -> None:
    """Send a message of one or several lines to the terminal and the log.

    Args:
        words: The message.
        level: DETAIL, NOTE, WARNING, ANSWER or ERROR; default: NOTE.
    """
    _LOGGER.log(level, "%s", words)


def shown(level: int) -> bool:
    """Whether the terminal shows messages of a level."""
    return level >= _TERMINAL.level


def show_from(level: int) -> None:
    """Set the lowest level of messages that the terminal shows."""
    _TERMINAL.setLevel(level)


@contextmanager
def logged(asked: str, *, command: bool) -> Iterator[None]:
    """A context whose messages are written to a log file, in the folder that `keep_log` sets.

    A context inside another one does nothing.

    Args:
        asked: The command or the call, as text; the first line of the log.
        command: Whether a command of the terminal runs, not a call from Python. A UserWarning is then
            shown as a message, and other warnings are hidden. In a call from Python, Python itself shows
            all warnings.
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
    """Set the folder of the log file, inside a context `logged`; elsewhere, nothing happens."""
    for handler in list(_LOGGER.handlers):
        if isinstance(handler, _Log):
            handler.keep_in(folder)


@contextmanager
def hushed() -> Iterator[None]:
    """A context that shows only errors, ignores warnings and writes no log.

    This context is for work that several processes share, of which only another one sends messages.
    """
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
