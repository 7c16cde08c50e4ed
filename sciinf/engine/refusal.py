"""A simulator that fails in more than half of a store's rows is refused, by whoever simulates them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sciinf.core.simulator import Status
from sciinf.engine.tally import REFUSED_ABOVE, mostly_failing
from sciinf.store import Store


def refuse(store: Store, counts: Mapping[Status, int], *, done: bool) -> None:
    """Refuse what clearly fails in more than half of all rows, or has none to learn from when it is done.

    Args:
        store: Where the rows are.
        counts: Rows by what became of them.
        done: Whether no more are to come.

    Raises:
        ValueError: If so; the message says why rows fail.
    """
    total, failed = sum(counts.values()), failed_of(counts)
    if not mostly_failing(failed, total) and not (done and failed == total):
        return
    messages = Counter(failure.message for failure in store.failures(limit=1000))
    message, times = messages.most_common(1)[0]
    raise ValueError(
        f"{failed:,} of {total:,} simulations in {store.folder.name} failed ({in_words(counts)}), refused above "
        f"{REFUSED_ABOVE:.0%}. The most frequent message, {times:,} of the first {messages.total():,}: {message}. They "
        "are kept and can be looked at (Store(path).failures()); mend the simulator and simulate into a new folder"
    )


def failed_of(counts: Mapping[Status, int]) -> int:
    """Rows that failed."""
    return sum(n for status, n in counts.items() if status != Status.OK)


def in_words(counts: Mapping[Status, int]) -> str:
    """How rows failed."""
    return ", ".join(f"{n:,} {s.name.lower().replace('_', ' ')}" for s, n in counts.items() if n and s != Status.OK)
