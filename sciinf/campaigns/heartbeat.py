"""The heartbeat process beside a worker: it touches the worker's hint file, and cleans up after the worker.

`campaigns.watcher` starts this process with the command line

    heartbeat.py WORKER BEAT NAME=MARK PARENT

WORKER is the process number of the worker, BEAT the seconds between two touches of the hint file. NAME=MARK
marks the environment of programs that the worker's simulator starts. If PARENT is not 0, the worker must end
with its parent process PARENT: it is killed as soon as it has another parent. This file is run by its path,
and imports no other module of sciinf. A thread of the worker could not touch the file, because a simulator in
C may hold Python's lock for minutes.

The worker sends lines to the standard input of this process:

    BEGIN SECONDS PATH    A block begins. Touch the hint file PATH, if any. The deadline is SECONDS, if not 0.
    REST                  The block has ended.
    END                   No block is running, and no other will begin.

A byte 1, 2 or 15 in the input is the number of a signal that asks the worker to stop. Python writes it when
the signal arrives (`signal.set_wakeup_fd`). The hint file is then removed: if the worker dies later, the
block is not the cause.

If the input ends during a block, the block has killed the worker. The hint file is then renamed. Its name
gets the ending `.late` if the deadline has passed, and `.died` if not.

Processes that the simulator has left are killed in two cases: the input ends, or the worker sends END after a
signal that asked it to stop. These are all processes that have NAME=MARK in their environment or hold the
input open. The worker itself is not killed.
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
_LOOK = 1.0  # Seconds to wait for input at a time.
_SWEEPS, _PAUSE = 20, 0.05  # Most looks at the process table, and seconds between two looks.


def main() -> None:
    """Touch the hint files of the worker that started this process, and kill the processes that outlive the worker."""
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
        elif os.getppid() != parent:  # The worker is gone, and a process that it started holds the input open.
            break
        elif above and _parent_of(parent) not in (above, None):
            os.kill(parent, signal.SIGKILL)  # The worker cannot end itself if its simulator holds Python's lock.
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
    """Kill the processes that a worker's simulator has left, until none is found.

    Args:
        mark: NAME=VALUE in the environment of the processes to kill.
        worker: Process number of the worker, which is not killed.
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
    """Whether /proc uses the process numbers that `os.kill` takes.

    In a container, /proc may show the processes of the host.
    """
    with suppress(OSError):
        return os.readlink("/proc/self") == str(os.getpid())
    return False


def _killed(pid: int, mark: bytes, pipe: str) -> bool:
    """Kill a process if it has the mark or holds the pipe; return whether it did.

    The process is held by a file descriptor, because its number may be given to another process meanwhile.
    """
    try:
        held = os.pidfd_open(pid)
    except (OSError, AttributeError):  # The process is gone, or Linux (here or in Python's build) is older than 5.3.
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
    with suppress(OSError):  # The file may have been closed since.
        return os.readlink(link) == place
    return False


if __name__ == "__main__":
    main()
