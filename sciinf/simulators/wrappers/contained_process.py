"""Runs of external programs that never hang, never outlive this process, and stop with all their descendants.

Every program is the leader of its own session, and so of its own process group. Killing the group also stops the
program's descendants. A guard process reads the groups' numbers from a pipe. The pipe closes when this process ends in
any way (`kill -9` included), and the guard then kills the remaining groups. POSIX only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import final

_GUARD = """
live=" "
while read -r sign group; do
  case "$sign" in
    +) live="$live$group " ;;
    -) live="${live%% $group *} ${live#* $group }" ;;
  esac
done
for group in $live; do kill -9 "-$group" 2>/dev/null; done
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended: by itself, by a signal, or killed at its time limit.

    Attributes:
        exit: Exit status; minus the number of the signal if a signal ended the program.
        timed_out: Whether the program was killed at its time limit.
    """

    exit: int
    timed_out: bool

    @property
    def signal(self) -> str:
        """Name of the signal that ended the program, or an empty text if the program exited by itself."""
        if self.exit >= 0:
            return ""
        try:
            return f"signal {-self.exit} ({signal.Signals(-self.exit).name})"
        except ValueError:
            return f"signal {-self.exit}"


@final
class Containment:
    """A `with` block for running programs from any number of threads. No program is left running after the block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._closed = False
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Containment:
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # A Ctrl-C at the terminal must not end the guard before this process.
            env={},  # The environment must not hold a worker's mark, or `campaigns.watcher` would end the guard.
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        guard = self._guard
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait()

    def run(
        self,
        argv: Sequence[str],
        *,
        folder: Path,
        stdout: Path,
        stderr: Path,
        environment: Mapping[str, str],
        timeout: float,
    ) -> Ended:
        """Run a program to its end, with no standard input.

        Args:
            argv: The program and its arguments.
            folder: Working folder of the program.
            stdout: File for the program's standard output.
            stderr: File for the program's standard error.
            environment: Environment variables of the program.
            timeout: Time limit in seconds, after which the program's process group is killed.

        Raises:
            OSError: If the program cannot be started.
            RuntimeError: If the block has ended.
        """
        with open(stdout, "wb") as out, open(stderr, "wb") as err, self._lock:
            if self._closed:
                raise RuntimeError("no program can be started any more: the simulation was interrupted")
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            self._running.add(process.pid)
            self._tell("+", process.pid)
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._kill_group(process.pid)

        timer = threading.Timer(timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            status = process.wait()
        finally:
            timer.cancel()
            self._kill_group(process.pid)  # Background children may be left; the program too, after an interrupt.
            process.wait()
            with self._lock:
                self._running.discard(process.pid)
                self._tell("-", process.pid)
        return Ended(status, late.is_set() and status == -signal.SIGKILL)

    def kill(self) -> None:
        """Kill every running program, and refuse to start further programs."""
        with self._lock:
            self._closed = True
            for group in self._running:
                self._kill_group(group)

    def _kill_group(self, group: int) -> None:
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # The group may have ended already (macOS raises PermissionError for zombies).
            os.killpg(group, signal.SIGKILL)

    def _tell(self, sign: str, group: int) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # Without a guard, this process still ends its programs itself.
                self._guard.stdin.write(f"{sign} {group}\n".encode())
