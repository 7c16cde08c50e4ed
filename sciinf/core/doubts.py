"""Doubts about draws: said when they arise, deep in a sampler, and kept for the answer that the draws are for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from sciinf.core.findings import Finding, Level

_NOTED: ContextVar[tuple[list[Finding], ...]] = ContextVar("noted", default=())


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
        noted.append(Finding("draws", Level.ALARM if alarm else Level.CAUTION, words))
    warnings.warn(words, Doubt, stacklevel=stacklevel + 1)


@contextmanager
def noting() -> Iterator[list[Finding]]:
    """Collect the doubts that arise within; they are warned of all the same."""
    noted: list[Finding] = []
    token = _NOTED.set((*_NOTED.get(), noted))
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def summed_up(noted: Sequence[Finding]) -> tuple[Finding, ...]:
    """One finding of all doubts: the worst, each in its words once."""
    if not noted:
        return ()
    words = list(dict.fromkeys(check.words for check in noted))
    more = f"; and {len(words) - 3} more such" if len(words) > 3 else ""
    level = Level.ALARM if any(check.level == Level.ALARM for check in noted) else Level.CAUTION
    return (Finding("draws", level, "; ".join(words[:3]) + more),)
