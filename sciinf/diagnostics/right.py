"""Findings of the local check: their kinds, levels and words, and the errors that a right answer may have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sciinf.core.findings import Cause, Evidence, Finding, Level
from sciinf.core.verdict import FAR, UNCHECKED
from sciinf.posteriors.changes import SHARE, SHIFT, WIDTH

NAME = "local check"


class Kind(StrEnum):
    """Kind of finding of the local check at one observation."""

    RIGHT = "right"
    UNSEEN = "no error seen"
    LOST = "data tell more"
    HINTED = "may be off"
    UNTOLD = "too few"
    UNSETTLED = "not settled"
    WRONG = "wrong"
    UNLIKE = "data unlike"
    UNCHECKED = UNCHECKED


_WORDS: Mapping[Kind, tuple[Level, str, Cause | None]] = {
    Kind.RIGHT: (Level.GOOD, "right at this observation", None),
    Kind.UNSEEN: (Level.GOOD, "no error seen at this observation", None),
    Kind.LOST: (Level.CAUTION, "it may be off at this observation", Cause.SUMMARY),
    Kind.HINTED: (Level.CAUTION, "it may be off at this observation", Cause.AROUND),
    Kind.UNTOLD: (Level.UNKNOWN, "too few simulations to tell whether it is right at this observation", Cause.AROUND),
    Kind.UNSETTLED: (Level.UNKNOWN, "the check at this observation is not conclusive", Cause.AROUND),
    Kind.WRONG: (Level.ALARM, "not right at this observation", Cause.AROUND),
    Kind.UNLIKE: (
        Level.UNKNOWN,
        "no check is possible at this observation, because the model does not reproduce the data",
        Cause.MODEL,
    ),
    Kind.UNCHECKED: (Level.UNKNOWN, "not checked at this observation", None),
}


def local_check(
    kind: Kind,
    details: str,
    *,
    level: Level | None = None,
    cause: Cause | None = None,
    second: bool = False,
    far: bool = False,
    way_on: str = "",
) -> Finding:
    """Build a finding of the local check.

    Args:
        kind: Kind of the finding.
        details: Details with numbers, in words. `figures` keeps them, because the result of a second network is
            added to them.
        level: Level, if it differs from that of the kind.
        cause: Cause, if it differs from that of the kind.
        second: Whether a second network was used.
        far: Whether the answer may be off by more than a right answer, so that no weaker evidence counts in its
            favour.
        way_on: Sentence on what to do next.
    """
    own, words, known = _WORDS[kind]
    evidence = None if kind == Kind.UNCHECKED else Evidence.CHECK
    if kind == Kind.RIGHT:
        evidence = Evidence.NETWORK if second else Evidence.ROUNDS
    figures: dict[str, Any] = {"details": details} | ({"second": True} if second else {})
    figures |= {FAR: True} if far else {}
    words = f"{words}: {details}" + (f". {way_on}" if way_on else "")
    return Finding(NAME, level or own, words, kind, figures, cause or known, evidence)


def words_of(differs: tuple[float, float]) -> str:
    """Words on how much two answers differ."""
    return f"centres by up to {differs[0]:.3g} sds, widths by up to {math.expm1(differs[1]):.2%}"


def limits() -> str:
    """Words on how much two answers may differ and still agree."""
    return f"{SHARE * SHIFT:.2g} sds, {SHARE * WIDTH:.2%}"
