"""What a caption says, read by the templates of its grammar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sciinf.surrogates._wording import ALONE, JOINS, OPENINGS, SPELT, Interval, Unphrased, number_of

if TYPE_CHECKING:
    from sciinf.surrogates.captions import Captions

_Number = tuple[tuple[int, ...], int]  # its tokens, and its unit


def intervals(captions: Captions, caption: str) -> dict[str, Interval]:
    """Parameter -> from, to, of those that a caption tells of.

    Raises:
        ValueError: If a word is unknown, the caption is not written as the grammar has it, or contradicts itself.
    """
    left, said = _folded(captions, captions.tokens(caption)), dict[str, Interval]()
    openings = [captions.opening(one) for one in (*OPENINGS, ALONE, "{subject}")]
    left = left[max(len(one) if left[: len(one)] == one else 0 for one in openings) :]
    while left:
        fits = [pattern for pattern in captions.patterns if _fits(pattern[0], left)]
        if not fits:
            [rest] = captions.text(torch.tensor([[k for one in left for k in _unfolded(one)]]))
            raise Unphrased(f"the grammar has no template for {rest!r}, in the caption {caption!r}")
        pattern, place, level = max(fits, key=lambda fit: len(fit[0]))
        name = captions.prior.names[place]
        ends = [said.get(name, (-math.inf, math.inf))]
        if level is not None:
            edges = [-math.inf, *captions.edges[place].tolist(), math.inf]
            ends.append((edges[level], edges[level + 1]))
        for number, unit in (one for one in left[: len(pattern)] if isinstance(one, tuple)):
            if unit not in (0, captions.units[place]):
                own = captions.prior.units[place] or "no unit"
                raise ValueError(f"{name!r} is in {own}, and the caption says {caption!r}")
            ends.append(number_of(number))
        said[name] = max(low for low, _ in ends), min(high for _, high in ends)
        if said[name][0] >= said[name][1]:
            raise ValueError(f"the caption {caption!r} contradicts itself about {name!r}")
        left = left[len(pattern) :]
        while left and left[0] in [captions.of[one] for one in JOINS]:
            left = left[1:]
    return said


def _folded(captions: Captions, tokens: Sequence[int]) -> list[int | _Number]:
    """Tokens with each number, and its unit, as one."""
    found = list[int | _Number]()
    for k in tokens:
        last = found[-1] if found else 0
        if k <= len(SPELT):
            number = last[0] if isinstance(last, tuple) and not last[1] else ()
            found[len(found) - bool(number) :] = [((*number, k), 0)]
        elif isinstance(last, tuple) and k in captions.units:
            found[-1] = (last[0], k)
        else:
            found.append(k)
    return found


def _unfolded(one: int | _Number) -> tuple[int, ...]:
    return (*one[0], one[1]) if isinstance(one, tuple) else (one,)


def _fits(pattern: Sequence[int | None], left: Sequence[int | _Number]) -> bool:
    """Whether tokens begin with a clause."""
    return len(pattern) <= len(left) and all(
        isinstance(one, tuple) if sought is None else sought == one for sought, one in zip(pattern, left, strict=False)
    )
