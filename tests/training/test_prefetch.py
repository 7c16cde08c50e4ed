"""Reading ahead: one item at a time, errors when their turn comes, and a thread that ends."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from sciinf.training.rows import read_ahead


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "sciinf read-ahead"]


def test_work_overlaps_by_one_item():
    made, taken, changed = [], [], threading.Condition()

    def source(stop):
        for item in range(6):
            with changed:
                made.append(item)
                changed.notify_all()
            yield item

    with closing(read_ahead(source)) as items:
        for item in items:
            with changed:  # the next one is made in the meantime
                assert changed.wait_for(lambda far=min(6, item + 2): len(made) >= far, timeout=60)
            time.sleep(0.02)  # for the one after it, which must not be; no machine is too slow for that
            taken.append(item)
            assert len(made) == min(6, item + 2)
    assert taken == list(range(6))


@pytest.mark.parametrize("error", [ValueError("planted"), MemoryError("planted"), KeyboardInterrupt("planted")])
def test_whatever_the_source_raises(error):
    def source(stop):
        yield 1
        raise error

    items = read_ahead(source)
    assert next(items) == 1
    with pytest.raises(type(error), match="planted"):
        next(items)
    assert readers() == []


def test_a_stop_is_heard_between_parts():
    heard = threading.Event()

    def source(stop):
        yield 0
        heard.set() if stop.wait(10) else None

    with closing(read_ahead(source)) as items:
        next(items)
    assert heard.is_set()
    assert readers() == []
