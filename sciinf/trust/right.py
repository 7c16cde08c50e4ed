"""What a right answer may be off by, what two networks' may differ by where one confirms the other, and the words."""

from __future__ import annotations

import math

SHIFT, WIDTH = 0.15, 0.1  # of the middle in sds, of the width: what a right answer may be off by at most
UNSEEN, RIGHT = "no error seen at this observation", "right at this observation"
HINTED, UNSETTLED = "it may be off at this observation", "cannot be told whether it is right at this observation"
LOST = f"{HINTED}: the data tell more"
UNTOLD = "too few simulations to tell whether it is right at this observation"
_SHARE = 2 / 3  # of that: what two networks may differ by


def agree(differs: tuple[float, float]) -> bool:
    """Whether two answers differ by so little that one confirms the other; not where that is no number.

    Args:
        differs: Middles in sds, and the logarithms of widths (`inference.changes`).
    """
    return differs[0] <= _SHARE * SHIFT and math.expm1(differs[1]) <= _SHARE * WIDTH


def beyond(differs: tuple[float, float]) -> bool:
    """Whether they differ by more than a right one may be off by; so too where that is no number.

    Args:
        differs: As in `agree`.
    """
    return not (differs[0] <= SHIFT and math.expm1(differs[1]) <= WIDTH)


def words_of(differs: tuple[float, float]) -> str:
    """By how much, in words."""
    return f"middles by up to {differs[0]:.3g} sds, widths by up to {math.expm1(differs[1]):.2%}"


def limits() -> str:
    """What answers that agree may differ by, in words."""
    return f"{_SHARE * SHIFT:.2g} sds, {_SHARE * WIDTH:.2%}"
