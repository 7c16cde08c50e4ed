"""Work done ahead by one background thread, one item while the one before is in use.

At most two items exist at a time, so that a source may fill two buffers by turns: it is asked for item i + 2 only when
the consumer is done with item i, which it is when it comes back for item i + 1. With r the time to make an item and u
the time it is in use, n items take r + n max(r, u) instead of n (r + u), on machines where the two do not share a
processor.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

ITEMS = 2  # made and not yet done with


def read_ahead(source: Callable[[threading.Event], Generator[T, None, None]]) -> Generator[T, None, None]:
    """The items of a source, each made in a background thread while the one before is in use.

    Close the iterator (`contextlib.closing`) where it may not be exhausted: the thread has ended when it is closed,
    exhausted or collected, or has raised. An interpreter that exits ends it too.

    Args:
        source: takes an event and returns a generator. It runs in the thread, and should return soon after the event
            is set, which says that no more items are wanted.

    Raises:
        BaseException: Whatever the source raises, when its turn comes.
    """
    stop, permits = threading.Event(), threading.Semaphore(ITEMS)
    made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    thread = threading.Thread(target=_make, args=(source, stop, permits, made), name="sciinf read-ahead", daemon=True)

    def end() -> None:
        stop.set()
        permits.release()
        thread.join()

    thread.start()
    atexit.register(end)
    try:
        while True:
            what, value = made.get()
            if what == "end":
                return
            if what == "error":
                raise value
            yield value
            del value
            permits.release()
    finally:
        atexit.unregister(end)
        end()


def _make(
    source: Callable[[threading.Event], Generator[Any, None, None]],
    stop: threading.Event,
    permits: threading.Semaphore,
    made: SimpleQueue[tuple[str, Any]],
) -> None:
    """Put items into a queue as permits allow, and then the end or the error."""
    try:
        with closing(source(stop)) as items:
            while True:
                permits.acquire()
                if stop.is_set():
                    return
                made.put(("item", next(items)))
    except StopIteration:
        made.put(("end", None))
    except BaseException as error:
        made.put(("error", error))
