"""The worker's side of the heartbeat process beside it (`campaigns.heartbeat`), which watches the worker.

The heartbeat process notices the end of the worker, however it ends, `kill -9` included. Then it kills the
programs that the worker's simulator has started, and the programs started by these. It recognises them by a
mark in their environment, which they inherit. It also finds forked processes, which hold the pipe to it open.
So sessions and process groups of their own do not hide programs. Some programs are not found: a program with
another environment, a program on another machine, and a program that a service has started for the simulator.
No program is found if there is no /proc, as on macOS, or if /proc shows other processes.
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
_PATIENCE = 3.0  # Seconds that the heartbeat process has to end.


@final
class Watcher:
    """The heartbeat process that watches this worker, and the messages to it.

    The process is started with the first block. Close it after use.

    Args:
        beat: Seconds between two touches of a hint file.
        signals: Whether the heartbeat process learns of signals at the moment they come, if this is the main
            thread.
        parent: Number of the process that started this worker, if the worker must end with it, even during a block.
    """

    def __init__(self, beat: float = 60.0, *, signals: bool = False, parent: int | None = None) -> None:
        self.beat, self.signals, self.parent = beat, signals, parent
        self._mark = secrets.token_hex(16)
        self._outer: str | None = None  # The outer worker's mark, if a simulator started this worker.
        self._process: subprocess.Popen[bytes] | None = None
        self._ear = -1  # Writing end of the pipe to the heartbeat process.
        self._woken: int | None = None
        self._busy = False

    def begin(self, hint: Path | None = None, timeout: float | None = None) -> None:
        """Tell the heartbeat process that a block begins.

        The mark is written into this worker's environment. Programs that are started during the block inherit
        it, and the heartbeat process finds them by it.

        Args:
            hint: Hint file to touch regularly.
            timeout: Deadline of the block in seconds; None for none.
        """
        if self._process is not None and self._process.poll() is not None:  # The process was killed.
            self._forget()
        if self._process is None:
            self._start()
        self._busy = True
        if os.environ.get(MARK) != self._mark:
            self._outer = os.environ.get(MARK)
            os.environ[MARK] = self._mark
        self._tell(f"BEGIN {timeout or 0:g} {hint or ''}")

    def rest(self) -> None:
        """Tell the heartbeat process that no block is running."""
        self._tell("REST")
        self._busy = False
        if os.environ.get(MARK) == self._mark:
            if self._outer is None:
                del os.environ[MARK]
            else:
                os.environ[MARK] = self._outer

    def close(self) -> None:
        """End the heartbeat process.

        If a signal has asked this worker to stop, the heartbeat process first kills what the simulator has
        started.
        """
        self.rest()
        if self._woken is not None:
            signal.set_wakeup_fd(self._woken)
            self._woken = None
        if self._process is not None:
            self._tell("END")  # Forked processes may hold its input open.
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
        # Without the mark, because another watcher would kill a process that carries it.
        others = {name: value for name, value in os.environ.items() if name != MARK}
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
        """In a forked process, stop sending signals to the heartbeat process.

        Between two blocks, also close the pipe to it.
        """
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
