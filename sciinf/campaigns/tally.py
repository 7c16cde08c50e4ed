"""Rows that a simulator was asked for during training, and how many of them failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from sciinf.campaigns.store import Store
from sciinf.core.observable import Status


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


REFUSED_ABOVE = 0.5
JUDGED_FROM = 50  # rows before which a simulator is not refused for its failures


def mostly_failing(failed: int, rows: int) -> bool:
    """Whether clearly more than half of all rows would fail, judged from those so far.

    The number that fail must lie four standard deviations above half: a simulator that fails half the time looks so in
    3e-5 of looks, one that fails in 45 % never, however often it is looked at.
    """
    return rows >= JUDGED_FROM and failed - REFUSED_ABOVE * rows > 2 * math.sqrt(rows)


class Tally:
    """Rows simulated and failed, and why; refuses a simulator that fails too much.

    Args:
        name: Of the simulator, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name, self.simulated, self.failed = name, 0, 0
        self.messages: Counter[str] = Counter()

    def add(self, rows: int, failed: int, messages: Iterable[str]) -> None:
        """Take note of rows.

        Raises:
            ValueError: If of all so far, 50 or more, clearly more than half have failed.
        """
        self.simulated, self.failed = self.simulated + rows, self.failed + failed
        if failed:
            known = list(messages)
            self.messages.update(known)
            self.messages["NaN or infinite values, or a status without a reason"] += max(0, failed - len(known))
        if mostly_failing(self.failed, self.simulated):
            message, times = self.messages.most_common(1)[0]
            raise ValueError(
                f"{self.failed:,} of {self.simulated:,} simulations of {self.name!r} failed, refused above "
                f"{REFUSED_ABOVE:.0%}. The most frequent message, {times:,} times: {message}. `sciinf check` or "
                "`simulate` into a store shows parameters and messages; mend the simulator"
            )
