"""Counts of failed simulations, and the refusal of simulators that fail in more than half of their rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from sciinf.campaigns.store import Store
from sciinf.core.observable import Status


def refuse(store: Store, counts: Mapping[Status, int], *, done: bool) -> None:
    """Refuse a store in which clearly more than half of all rows fail, or a complete store without a valid row.

    Args:
        store: Store with the rows.
        counts: Number of rows for each status.
        done: Whether no more rows will come.

    Raises:
        ValueError: If the store is refused; the message says why rows fail.
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
    """Number of rows that failed."""
    return sum(n for status, n in counts.items() if status != Status.OK)


def in_words(counts: Mapping[Status, int]) -> str:
    """Numbers of failed rows by status, in words."""
    return ", ".join(f"{n:,} {s.name.lower().replace('_', ' ')}" for s, n in counts.items() if n and s != Status.OK)


REFUSED_ABOVE = 0.5
JUDGED_FROM = 50  # Fewest rows after which a simulator may be refused for its failures.


def mostly_failing(failed: int, rows: int) -> bool:
    """Whether clearly more than half of all rows would fail, judged from the rows so far.

    The number of failed rows must be four standard deviations above half. A simulator that fails half the time is
    refused in 3e-5 of the checks. A simulator that fails in 45 % of the rows is never refused, however often it is
    checked.
    """
    return rows >= JUDGED_FROM and failed - REFUSED_ABOVE * rows > 2 * math.sqrt(rows)


class Tally:
    """Counts of simulated and failed rows during training, with messages; refuses a simulator that fails too often.

    Args:
        name: Name of the simulator, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name, self.simulated, self.failed = name, 0, 0
        self.messages: Counter[str] = Counter()

    def add(self, rows: int, failed: int, messages: Iterable[str]) -> None:
        """Add the counts of some rows.

        Raises:
            ValueError: If clearly more than half of all rows so far, 50 or more, have failed.
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
