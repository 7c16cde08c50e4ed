"""Warnings about draws, shown when a sampler meets a problem and collected as findings for the answer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from sciinf.core.findings import Finding, Level

_NOTED: ContextVar[tuple[list[Finding], ...]] = ContextVar("noted", default=())


class Doubt(UserWarning):
    """A warning that draws may not follow the distribution that they are meant to follow."""


def doubt(words: str, *, alarm: bool, stacklevel: int) -> None:
    """Warn about draws, and add the warning as a finding to every open `noting` context.

    Args:
        words: What was found, and the way out.
        alarm: True if the draws must not be used, False if they may be used with care.
        stacklevel: The `stacklevel` of `warnings.warn`, counted from the caller of this function.
    """
    for noted in _NOTED.get():
        noted.append(Finding("draws", Level.ALARM if alarm else Level.CAUTION, words))
    warnings.warn(words, Doubt, stacklevel=stacklevel + 1)


@contextmanager
def noting() -> Iterator[list[Finding]]:
    """A context that collects the doubts that arise inside, as findings; the warnings are also shown."""
    noted: list[Finding] = []
    token = _NOTED.set((*_NOTED.get(), noted))
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def summed_up(noted: Sequence[Finding]) -> tuple[Finding, ...]:
    """A single finding, in a tuple, that sums up all doubts; empty if there are none.

    Its level is that of the worst doubt. Its words are those of the first three different doubts.
    """
    if not noted:
        return ()
    words = list(dict.fromkeys(check.words for check in noted))
    more = f"; and {len(words) - 3} more such" if len(words) > 3 else ""
    level = Level.ALARM if any(check.level == Level.ALARM for check in noted) else Level.CAUTION
    return (Finding("draws", level, "; ".join(words[:3]) + more),)
