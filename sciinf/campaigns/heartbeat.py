"""The small process beside a worker (`campaigns.watcher`): it keeps the worker's hint fresh, and ends what outlives it.

It is run by its path, and loads nothing of ours: heartbeat.py WORKER BEAT NAME=MARK PARENT. A worker that is to end
with its parent PARENT is killed when it has another one; 0 says that it is not to.

A thread could not do it: a simulator in C may hold Python's lock for minutes. What the worker writes to the standard
input says which hint it is:

    BEGIN SECONDS PATH    touch PATH, if any, from now on; SECONDS are the block's deadline, 0 for none
    REST                  nothing is in hand
    END                   nothing is in hand, and nothing will be

A byte 1, 2 or 15 is a signal that asks the worker to stop, as Python writes it in the moment the signal comes
(`signal.set_wakeup_fd`): the hint is removed, for what becomes of the block now is not the block's fault. Where the
input ends while a block is in hand, the worker died of it. The hint's name then says so: `.late` stands behind it past
the deadline, `.died` otherwise. Where the input ends, or a worker that was asked to stop says END, every process is
killed that has NAME=MARK in its environment or holds the input open, but for the worker itself.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

STOPS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
DIED, LATE = ".died", ".late"
_LOOK = 1.0  # s
_SWEEPS, _PAUSE = 20, 0.05  # looks at the process table, and s between them


def main() -> None:
    """Keep the hints of the process that started this one, and end what outlives it."""
    for kind in STOPS:
        signal.signal(kind, signal.SIG_IGN)
    parent, beat, mark, above = int(sys.argv[1]), float(sys.argv[2]), os.fsencode(sys.argv[3]), int(sys.argv[4])
    hint, deadline, began, last, rest, stopped = "", 0.0, 0.0, 0.0, b"", False
    while True:
        if select.select([0], [], [], _LOOK)[0]:
            data = os.read(0, 65536)
            if not data:
                break
            if any(byte in STOPS for byte in data):
                stopped = True
                with suppress(OSError):
                    os.unlink(hint)
                hint = ""
            *lines, rest = (rest + bytes(byte for byte in data if byte >= 32 or byte == 10)).split(b"\n")
            for line in lines:
                words = os.fsdecode(line).split(" ", 2)
                if words[0] == "BEGIN":
                    hint, deadline, began, last = words[2], float(words[1]), time.monotonic(), time.monotonic()
                elif words[0] == "REST":
                    hint = ""
                elif words[0] == "END":
                    if stopped:
                        sweep(mark, parent)
                    return
        elif os.getppid() != parent:  # it is gone, and a process that it had started holds the input open
            break
        elif above and _parent_of(parent) not in (above, None):
            os.kill(parent, signal.SIGKILL)  # its simulator may hold Python's lock, so that it cannot see that
        if hint and time.monotonic() - last >= beat:
            last = time.monotonic()
            with suppress(OSError):
                os.utime(hint)
    late = deadline and time.monotonic() - began >= deadline - _LOOK
    sweep(mark, parent)
    if hint:
        with suppress(OSError):
            os.rename(hint, hint + (LATE if late else DIED))


def sweep(mark: bytes, worker: int) -> None:
    """Kill what a worker's simulator has left, until nothing of it is found.

    Args:
        mark: NAME=VALUE in the environment of what is killed.
        worker: A process that is not.
    """
    pipe = ""
    with suppress(OSError):
        pipe = os.readlink("/proc/self/fd/0") if numbered_as_here() else ""
    for _ in range(_SWEEPS if pipe else 0):
        found = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (worker, os.getpid())]
        if not [pid for pid in found if _killed(pid, mark, pipe)]:
            return
        time.sleep(_PAUSE)


def numbered_as_here() -> bool:
    """Whether /proc has the numbers that `os.kill` takes: a container may show the processes of its host there."""
    with suppress(OSError):
        return os.readlink("/proc/self") == str(os.getpid())
    return False


def _killed(pid: int, mark: bytes, pipe: str) -> bool:
    """Kill a process if it is one of those; whether it is. Its number may become another one's meanwhile."""
    try:
        held = os.pidfd_open(pid)
    except (OSError, AttributeError):  # it is gone; or Linux, or what Python was compiled for, is older than 5.3
        held = -1
    try:
        if not (_carries(pid, mark) or _holds(pid, pipe)):
            return False
        with suppress(OSError):
            if held < 0:
                os.kill(pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(held, signal.SIGKILL)
        return True
    finally:
        if held >= 0:
            os.close(held)


def _parent_of(pid: int) -> int | None:
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1]) if numbered_as_here() else None
    return None


def _carries(pid: int, mark: bytes) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return mark in file.read().split(b"\0")
    return False


def _holds(pid: int, pipe: str) -> bool:
    with suppress(OSError):
        return any(_leads(f"/proc/{pid}/fd/{number}", pipe) for number in os.listdir(f"/proc/{pid}/fd"))
    return False


def _leads(link: str, place: str) -> bool:
    with suppress(OSError):  # closed since
        return os.readlink(link) == place
    return False


if __name__ == "__main__":
    main()
