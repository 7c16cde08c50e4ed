"""The small process that keeps a worker's hint fresh: run by its path, it loads nothing of ours.

A thread could not do it: a simulator in C may hold Python's lock for minutes. What the worker writes to the standard
input says which hint it is:

    BEGIN SECONDS PATH    touch PATH from now on; SECONDS are the block's deadline, 0 for none
    REST                  nothing is in hand
    END                   nothing is in hand, and nothing will be

A byte 1, 2 or 15 is a signal that asks the worker to stop, as Python writes it in the moment the signal comes
(`signal.set_wakeup_fd`): the hint is removed, for what becomes of the block now is not the block's fault. Where the
input ends while a block is in hand, the worker died of it. The hint's name then says so: `.late` stands behind it past
the deadline, `.died` otherwise.
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


def main() -> None:
    """Keep the hints of the process that started this one."""
    for kind in STOPS:
        signal.signal(kind, signal.SIG_IGN)
    parent, beat = int(sys.argv[1]), float(sys.argv[2])
    hint, deadline, began, last, rest = "", 0.0, 0.0, 0.0, b""
    while True:
        if select.select([0], [], [], _LOOK)[0]:
            data = os.read(0, 65536)
            if not data:
                break
            if hint and any(byte in STOPS for byte in data):
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
                    return
        elif os.getppid() != parent:  # it is gone, and a process that it had started holds the input open
            break
        if hint and time.monotonic() - last >= beat:
            last = time.monotonic()
            with suppress(OSError):
                os.utime(hint)
    if hint:
        with suppress(OSError):
            os.rename(hint, hint + (LATE if deadline and time.monotonic() - began >= deadline - _LOOK else DIED))


if __name__ == "__main__":
    main()
