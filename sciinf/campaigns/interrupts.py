"""Ctrl-C and SIGTERM that end a campaign, wherever they fall."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupts", "interruptible"]


class Interrupts:
    """What has been asked of a campaign by signals.

    Python raises a signal's exception wherever it is, and drops it in a callback of the garbage collector, where three
    to thirteen of a hundred fall while small blocks are written as HDF5. So that a signal came is kept as well.
    """

    def __init__(self) -> None:
        self._came = False

    def __call__(self, *_: object) -> None:
        """The handler of the signals."""
        self._came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """To be called between blocks.

        Raises:
            KeyboardInterrupt: If a signal has come.
        """
        if self._came:
            raise KeyboardInterrupt


@contextmanager
def interruptible(*, hangup: bool = False) -> Iterator[Interrupts]:
    """Have Ctrl-C and SIGTERM raise `KeyboardInterrupt` here, unless somebody else handles them.

    Args:
        hangup: Whether SIGHUP does so, too: the end of a connection through which this was started.

    Raises:
        KeyboardInterrupt: Also on the way out, if a signal has come and nothing was raised.
    """
    outer, before = signal.getsignal(signal.SIGINT), dict[int, Any]()
    interrupts = outer if isinstance(outer, Interrupts) else Interrupts()
    try:
        if threading.current_thread() is threading.main_thread():
            kinds = [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)]
            kinds += [(signal.SIGHUP, signal.SIG_DFL)] if hangup else []
            for kind, usual in kinds:
                if signal.getsignal(kind) is usual:
                    before[kind] = usual
                    signal.signal(kind, interrupts)
        yield interrupts
    finally:
        for kind, usual in before.items():
            signal.signal(kind, usual)
    interrupts.check()
