"""External programs run so that none hangs, none outlives us, and each can be stopped with all it started.

Every program is the leader of a session, and thereby of a process group, of its own: killing the group stops its
descendants too. A guard process reads the groups' numbers from a pipe; the pipe closes when this process ends, however
it ends (`kill -9` included), and the guard then kills what is left. POSIX only.
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
    """How a program ended: its exit status, negative for the signal that ended it; or killed at its deadline."""

    exit: int
    timed_out: bool

    @property
    def signal(self) -> str:
        """Name of the signal that ended it; "" if none did."""
        if self.exit >= 0:
            return ""
        try:
            return f"signal {-self.exit} ({signal.Signals(-self.exit).name})"
        except ValueError:
            return f"signal {-self.exit}"


@final
class Containment:
    """A `with` block in which programs run, from any number of threads; none is left when it ends."""

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
            start_new_session=True,  # a Ctrl-C at the terminal must not end the guard before us
            env={},  # no mark in it, or a worker's watcher would end the guard (`campaigns.watcher`)
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
            folder: Where it runs.
            stdout: File its standard output goes to.
            stderr: File its standard error goes to.
            environment: Its environment.
            timeout: Seconds after which its process group is killed.

        Raises:
            OSError: If it cannot be started.
            RuntimeError: If the block has ended.
        """
        with open(stdout, "wb") as out, open(stderr, "wb") as err, self._lock:
            if self._closed:
                raise RuntimeError("no more programs are started: the simulation was interrupted")
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
            self._kill_group(process.pid)  # what it left in the background, or itself when we are interrupted
            process.wait()
            with self._lock:
                self._running.discard(process.pid)
                self._tell("-", process.pid)
        return Ended(status, late.is_set() and status == -signal.SIGKILL)

    def kill(self) -> None:
        """Kill every program that runs, and start none any more."""
        with self._lock:
            self._closed = True
            for group in self._running:
                self._kill_group(group)

    def _kill_group(self, group: int) -> None:
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # gone already (macOS says the latter of zombies)
            os.killpg(group, signal.SIGKILL)

    def _tell(self, sign: str, group: int) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # somebody ended the guard; the programs are still ours to end
                self._guard.stdin.write(f"{sign} {group}\n".encode())
