"""What captions are made of: levels, templates, digits; what numbers and levels say; draws of what is said."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior
from sciinf.core.laws import cdf_of, from_normal, inside, is_normalisable, quantile_of

LEVELS = ("very low", "low", "middling", "high", "very high")
TEMPLATES = (
    "{level} {name}",
    "{name} that is {level}",
    "{name} being {level}",
    "{level} values of {name}",
    "{name} {number}",
    "{name} of {number}",
    "{name} = {number}",
    "{name} being about {number}",
    "{number} for {name}",
    "{level} {name} ({number})",
    "{name} of {number} that is {level}",
)
OPENINGS, ALONE = ("", "{subject} with", "{subject} of", "{subject} :", "show {subject} with"), "any {subject}"
JOINS = (",", "and", "with")
SPELT = (*map(str, range(10)), ".", "e", "-", "+")
MARKS, ARTICLES = ("(", ")", ",", "=", ":"), {"a", "an", "the"}
PIECE = re.compile(r"\{\w+\}|[^\W\d]\w*|[(),=:]")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]*\w)")
_DRAWS, _TRIES = 2**16, 30  # of laws whose quantiles are not known
Interval = tuple[float, float]


class Unphrased(ValueError):
    """A caption whose words are known, and that no template of the grammar has."""


def drawn_within(
    law: td.Distribution, box: Tensor, n: int, dtype: torch.dtype, *, generator: torch.Generator
) -> Float[Tensor, "draw number"]:
    """As many as n draws of a law within a box, (number, 2), fewer where they cannot be found.

    Args:
        law: Of some parameters.
        box: From and to, (2, number).
        n: How many are sought.
        dtype: Of draws.
        generator: For them.
    """
    if not law.event_shape and is_normalisable(law):
        low, high = cdf_of(law, box[:, 0].clamp(-1e300, 1e300)).tolist()
        at = low + (high - low) * torch.rand(n if high > low else 0, generator=generator, dtype=torch.float64)
        return inside(law, quantile_of(law, at, 1 - at).to(dtype))[:, None]
    parts = [torch.empty(0, box.shape[1], dtype=dtype)]
    alone = Prior.of_laws([f"p{k}" for k in range(box.shape[1])], [""] * box.shape[1], [law])
    for _ in range(_TRIES):
        some = alone.sample(_DRAWS, generator=generator)
        parts.append(some[((some >= box[0]) & (some < box[1])).all(1)].to(dtype))
        if sum(map(len, parts)) >= n:
            break
    return torch.cat(parts)[:n]


def pieces(text: str) -> list[str]:
    """Slots, words and marks."""
    return PIECE.findall(text)


def rounded_to(number: str) -> Interval:
    """From where to where numbers are that are written so, to as many digits."""
    sign = -1 if number[0] == "-" else 1
    mantissa, _, power = number.lstrip("+-").partition("e")
    whole, _, decimals = mantissa.partition(".")
    digits, step = int(whole + decimals), 10.0 ** (int(power or 0) - len(decimals))
    below = 0.05 if digits and digits == 10 ** (len(str(digits)) - 1) else 0.5
    low, high = sign * (digits - below) * step, sign * (digits + 0.5) * step
    return min(low, high), max(low, high)


def quantiles(prior: Prior, z: Float[Tensor, " level"]) -> Float[Tensor, "theta level"]:
    """Of each parameter, where a standard normal number has z; of joint laws from draws."""
    rows = list[Tensor]()
    for law, place in prior.places():
        if not law.event_shape and is_normalisable(law):
            rows.append(from_normal(law, z))
            continue
        some = prior.sample(_DRAWS, generator=torch.Generator().manual_seed(0))[:, place].double()
        rows += some.quantile(torch.special.ndtr(z), 0).unbind(1)
    return torch.stack(rows)


def called(name: str, phrases: Sequence[str]) -> list[list[str]]:
    """A parameter's name and phrases, in words."""
    apart = name.replace("_", " ")
    own = apart if all(PIECE.fullmatch(word) for word in apart.split()) else name
    return [pieces(one.lower()) for one in dict.fromkeys((own, *phrases))]
