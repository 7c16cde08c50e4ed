"""What captions are made of: levels, templates, digits; what numbers and levels say; draws of what is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
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
NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.]*\w)")
SKIPPED = re.compile(r"(?:[\s;!?]|\.(?![0-9]))+")  # a full stop, but no decimal point
POINT, EXPONENT, MINUS = (SPELT.index(sign) + 1 for sign in ".e-")
_DRAWS, _TRIES = 2**16, 30  # of laws whose quantiles are not known
_ENOUGH, _FEWEST = 1_000, 50  # of these draws within a box
Interval = tuple[float, float]


class Unphrased(ValueError):
    """A caption whose words are known, and that no template of the grammar has."""


def drawn_within(
    law: td.Distribution, box: Tensor, at: Float[Tensor, "draw number"], dtype: torch.dtype
) -> Float[Tensor, "draw number"]:
    """Draws of a law within a box, as a function of even numbers; none where they cannot be found.

    Args:
        law: Of some parameters.
        box: From and to, (2, number).
        at: From 0 to 1, in double precision. Of a joint law the first says which of some draws is taken.
        dtype: Of draws.
    """
    if not law.event_shape and is_normalisable(law):
        low, high = cdf_of(law, box[:, 0].clamp(-1e300, 1e300)).tolist()
        where = low + (high - low) * (at[:, 0] if high > low else at[:0, 0])
        return inside(law, quantile_of(law, where, 1 - where).to(dtype))[:, None]
    draw, enough = torch.Generator().manual_seed(0), max(len(at), _ENOUGH)
    parts = [torch.empty(0, box.shape[1], dtype=dtype)]
    alone = Prior.of_laws([f"p{k}" for k in range(box.shape[1])], [""] * box.shape[1], [law])
    for _ in range(_TRIES):
        some = alone.sample(_DRAWS, generator=draw)
        parts.append(some[((some >= box[0]) & (some < box[1])).all(1)].to(dtype))
        if sum(map(len, parts)) >= enough:
            break
    found = torch.cat(parts)
    return found[(at[:, 0] * len(found)).long()] if len(found) >= _FEWEST else found[:0]


def pieces(text: str) -> list[str]:
    """Slots, words and marks."""
    return PIECE.findall(text)


def worded(text: str) -> str:
    """A text as captions have it: in lower case, without articles and full stops.

    Raises:
        ValueError: If there is something in it that stands in captions for numbers alone, or not at all.
    """
    if strange := re.sub(SKIPPED, "", re.sub(PIECE, "", text)):
        raise ValueError(
            f"{text!r} has {strange!r}: beside numbers, captions have words and the signs {' '.join(MARKS)}"
        )
    found = [one for one in pieces(text.lower()) if one not in ARTICLES]
    if spelt := {*found} & {*SPELT}:
        raise ValueError(
            f"{text!r} has the word {spelt.pop()!r}, which stands in numbers, as in 1e-3: say it otherwise"
        )
    return " ".join(found)


def numbers(ids: Int[Tensor, "batch token"]) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers in captions.

    Returns:
        For each token of a number from where to where it says that theta is, and whether it is one.
    """
    spelt = (ids > 0) & (ids <= len(SPELT))
    first = (spelt.long().diff(dim=1, prepend=torch.zeros_like(ids[:, :1])) == 1).double()
    run = first.long().cumsum(1)

    def in_all(mark: Tensor) -> Tensor:
        """Sums over each number."""
        mark = mark * spelt.double()
        return torch.zeros_like(mark).scatter_add(1, run, mark).gather(1, run)

    def before(mark: Tensor) -> Tensor:
        """Sums over what stands before, in the same number."""
        sums = mark.double().cumsum(1) - mark.double()
        return sums - in_all(sums * first)

    def spelt_out(digit: Tensor) -> Tensor:
        """What some digits of each number are together."""
        after = in_all(digit) - before(digit) - digit.double()
        return in_all(digit * (ids - 1) * torch.full_like(after, 10.0).pow(after))

    digit, behind = spelt & (ids <= 10), before(ids == EXPONENT) > 0
    front = digit & ~behind
    whole, power = spelt_out(front), spelt_out(digit & behind)
    digits = in_all(front & ((before(front & (ids > 1)) > 0) | (ids > 1)))  # from the first that is not 0 on
    decimals = in_all(front & (before(ids == POINT) > 0))
    power = torch.where(in_all((ids == MINUS) & behind) > 0, -power, power)
    low, high = rounded_to(whole, digits, power - decimals, in_all((ids == MINUS) & ~behind) > 0)
    return low, high, spelt


def number_of(ids: Sequence[int]) -> Interval:
    """From where to where one number says that theta is, given its tokens."""
    low, high, _ = numbers(torch.tensor([[0, *ids]]))
    return float(low[0, -1]), float(high[0, -1])


def rounded_to(whole: Tensor, digits: Tensor, power: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """From where to where numbers are that are written as M 10^s."""
    ten = torch.full_like(whole, 10.0)
    below = 0.5 - 0.45 * ((whole == ten.pow(digits - 1)) & (whole > 0)).to(whole)
    low, high = (whole - below) * ten.pow(power), (whole + 0.5) * ten.pow(power)
    return torch.where(negative, -high, low), torch.where(negative, -low, high)


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


def called(names: Sequence[str], phrases: Mapping[str, Sequence[str]]) -> list[list[list[str]]]:
    """What each parameter is called, in words: its name and phrases, or these alone where the name cannot be said."""
    own = list[str]()
    for name in names:
        apart = name.lower().replace("_", " ").split()
        apart = apart if all(map(PIECE.fullmatch, apart)) else [name.lower()]
        own.append(" ".join(word for word in apart if word not in ARTICLES))
    found = list[list[list[str]]]()
    for name, mine in zip(names, own, strict=True):
        others = [one for other in names if other != name for one in phrases.get(other, ())]
        plain = not unsayable(mine.split()) and own.count(mine) == 1 and mine not in others
        texts = [*([mine] if plain or name not in phrases else []), *phrases.get(name, ())]
        found.append([one.split() for one in dict.fromkeys(texts)])
    return found


def unsayable(words: Sequence[str]) -> bool:
    """Whether words are no name, for there are none, or some stand in levels or numbers."""
    return not words or bool({*words} & {*SPELT, *(word for level in LEVELS for word in level.split())})
