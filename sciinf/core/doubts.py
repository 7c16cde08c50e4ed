"""Doubts about draws: said when they arise, deep in a sampler, and kept for the answer that the draws are for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from sciinf.core.verdicts import Check

_NOTED: ContextVar[tuple[list[Check], ...]] = ContextVar("noted", default=())


class Doubt(UserWarning):
    """A warning that draws may not be of the law they are meant to follow."""


def doubt(words: str, *, alarm: bool, stacklevel: int) -> None:
    """Warn, and tell all that collect.

    Args:
        words: What was found, and the way out.
        alarm: Whether the draws are not to be used, rather than with care.
        stacklevel: As of `warnings.warn`, from the caller.
    """
    for noted in _NOTED.get():
        noted.append(Check("draws", "alarm" if alarm else "caution", words))
    warnings.warn(words, Doubt, stacklevel=stacklevel + 1)


@contextmanager
def noting() -> Iterator[list[Check]]:
    """Collect the doubts that arise within; they are warned of all the same."""
    noted: list[Check] = []
    token = _NOTED.set((*_NOTED.get(), noted))
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def summed_up(noted: Sequence[Check]) -> tuple[Check, ...]:
    """One finding of all doubts: the worst, each in its words once."""
    if not noted:
        return ()
    words = list(dict.fromkeys(check.verdict for check in noted))
    more = f"; and {len(words) - 3} more such" if len(words) > 3 else ""
    level = "alarm" if any(check.level == "alarm" for check in noted) else "caution"
    return (Check("draws", level, "; ".join(words[:3]) + more),)
