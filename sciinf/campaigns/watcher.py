"""The small process beside a worker (`campaigns.heartbeat`), as the worker sees it.

It notices however the worker ends, `kill -9` included. Then it kills the programs that the worker's simulator has
started, and what these have started. It knows them by a mark in their environment, which they inherit, or by the pipe
to it, which a process that was only forked meanwhile holds open, too. So sessions and process groups of their own do
not hide them. A program that was given another environment is not found, nor one on another machine, nor one that a
service has started for the simulator; nor any where there is no /proc, as on macOS, or it is that of other processes.
"""

from __future__ import annotations

import functools
import os
import secrets
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import final

MARK = "SCIINF_WORKER"
"""The variable that holds the mark while a block is in hand."""
_PROGRAM = Path(__file__).with_name("heartbeat.py")
_PATIENCE = 3.0  # s for it to end


@final
class Watcher:
    """A process that is told what is in hand here; it is started with the first block. To be closed.

    Args:
        beat: Seconds between two touches of a hint.
        signals: Whether it is told of signals in the moment they come, where this is the main thread.
        parent: The process that has started this one, where this one is to end with it, even in the midst of a block.
    """

    def __init__(self, beat: float = 60.0, *, signals: bool = False, parent: int | None = None) -> None:
        self.beat, self.signals, self.parent = beat, signals, parent
        self._mark = secrets.token_hex(16)
        self._outer: str | None = None  # where a program of another worker's simulator is a worker itself
        self._process: subprocess.Popen[bytes] | None = None
        self._ear = -1  # what the process reads
        self._woken: int | None = None
        self._busy = False

    def begin(self, hint: Path | None = None, timeout: float | None = None) -> None:
        """Say that a block is in hand from now on; what is started meanwhile carries the mark.

        Args:
            hint: A file to be touched.
            timeout: Deadline of the block, seconds; None for none.
        """
        if self._process is not None and self._process.poll() is not None:  # it was killed
            self._forget()
        if self._process is None:
            self._start()
        self._busy = True
        if os.environ.get(MARK) != self._mark:
            self._outer = os.environ.get(MARK)
            os.environ[MARK] = self._mark
        self._tell(f"BEGIN {timeout or 0:g} {hint or ''}")

    def rest(self) -> None:
        """Say that no block is in hand."""
        self._tell("REST")
        self._busy = False
        if os.environ.get(MARK) == self._mark:
            if self._outer is None:
                del os.environ[MARK]
            else:
                os.environ[MARK] = self._outer

    def close(self) -> None:
        """End it. Where a signal has asked this worker to stop, it first kills what the simulator has started."""
        self.rest()
        if self._woken is not None:
            signal.set_wakeup_fd(self._woken)
            self._woken = None
        if self._process is not None:
            self._tell("END")  # for processes that the simulator has forked may hold its input open
            os.close(self._ear)
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _start(self) -> None:
        words = [sys.executable, "-I", "-S", str(_PROGRAM), str(os.getpid()), f"{self.beat:g}", f"{MARK}={self._mark}"]
        words.append(str(self.parent or 0))
        others = {name: value for name, value in os.environ.items() if name != MARK}  # or another watcher would kill it
        _look_at_forks()
        _WATCHERS.add(self)
        read, self._ear = os.pipe()
        self._process = subprocess.Popen(
            words, stdin=read, stdout=subprocess.DEVNULL, start_new_session=True, env=others
        )
        os.close(read)
        os.set_blocking(self._ear, False)
        if self.signals and threading.current_thread() is threading.main_thread():
            before = signal.set_wakeup_fd(self._ear, warn_on_full_buffer=False)
            self._woken = before if self._woken is None else self._woken

    def _forget(self) -> None:
        self._process = None
        os.close(self._ear)

    def let_go(self) -> None:
        """In a process that was only forked: signals to it are not ours, nor is it between two blocks."""
        if self._process is None:
            return
        if (before := signal.set_wakeup_fd(-1)) not in (-1, self._ear):
            signal.set_wakeup_fd(before)
        if not self._busy:
            self._forget()

    def _tell(self, words: str) -> None:
        if self._process is not None:
            with suppress(OSError):
                os.write(self._ear, os.fsencode(f"{words}\n"))


_WATCHERS = weakref.WeakSet[Watcher]()


@functools.cache
def _look_at_forks() -> None:
    os.register_at_fork(after_in_child=lambda: [watcher.let_go() for watcher in list(_WATCHERS)])
