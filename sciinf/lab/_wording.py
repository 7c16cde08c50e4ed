"""The parts of captions, their meaning as intervals, and draws from a prior within such intervals.

The parts are levels, templates, digits and signs. A number or a level in a caption says an interval of a
parameter.
"""

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
SKIPPED = re.compile(r"(?:[\s;!?]|\.(?![0-9]))+")  # Full stops are skipped, decimal points are not.
POINT, EXPONENT, MINUS = (SPELT.index(sign) + 1 for sign in ".e-")
# Draws per try, and largest number of tries, for distributions whose quantiles are not known.
_DRAWS, _TRIES = 2**16, 30
# Draws within a box at which the tries end, and the fewest that are accepted.
_ENOUGH, _FEWEST = 1_000, 50
Interval = tuple[float, float]


class Unphrased(ValueError):
    """Error for a caption whose words are all known, but which no template of the grammar produces."""


def drawn_within(
    law: td.Distribution, box: Tensor, at: Float[Tensor, "draw number"], dtype: torch.dtype
) -> Float[Tensor, "draw number"]:
    """Draw from a distribution restricted to a box, as a deterministic function of uniform numbers.

    The result has no rows if the box has probability 0. For a joint distribution, the result also has no rows
    if too few of its draws fall within the box.

    Args:
        law: Distribution of one or several parameters.
        box: Lower and upper ends of the box, (2, number).
        at: Uniform numbers from 0 to 1, in double precision. For a joint distribution, the first column
            selects one of a set of draws within the box.
        dtype: Type of the draws.
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
    """The slots, words and marks of a text, in order."""
    return PIECE.findall(text)


def worded(text: str) -> str:
    """The text in the form of captions: in lower case, without articles and full stops.

    Raises:
        ValueError: If the text has a sign that captions do not have, or a word that is a part of numbers
            ("e").
    """
    if strange := re.sub(SKIPPED, "", re.sub(PIECE, "", text)):
        raise ValueError(
            f"{text!r} has {strange!r}, but beside numbers captions have only words and the signs {' '.join(MARKS)}"
        )
    found = [one for one in pieces(text.lower()) if one not in ARTICLES]
    if spelt := {*found} & {*SPELT}:
        raise ValueError(
            f"{text!r} has the word {spelt.pop()!r}, a part of numbers such as 1e-3: use another word in its place"
        )
    return " ".join(found)


def numbers(ids: Int[Tensor, "batch token"]) -> tuple[Tensor, Tensor, Tensor]:
    """The intervals that the numbers in captions say, at each token.

    Returns:
        Three tensors (batch, token): the lower end and the upper end of the interval that the token's number
        says, and whether the token belongs to a number. The ends have no meaning at other tokens.
    """
    spelt = (ids > 0) & (ids <= len(SPELT))
    first = (spelt.long().diff(dim=1, prepend=torch.zeros_like(ids[:, :1])) == 1).double()
    run = first.long().cumsum(1)

    def in_all(mark: Tensor) -> Tensor:
        """The sum of a mark over all tokens of each number, at each of its tokens."""
        mark = mark * spelt.double()
        return torch.zeros_like(mark).scatter_add(1, run, mark).gather(1, run)

    def before(mark: Tensor) -> Tensor:
        """The sum of a mark over the earlier tokens of the same number."""
        sums = mark.double().cumsum(1) - mark.double()
        return sums - in_all(sums * first)

    def spelt_out(digit: Tensor) -> Tensor:
        """The integer that the marked digits of each number form together."""
        after = in_all(digit) - before(digit) - digit.double()
        return in_all(digit * (ids - 1) * torch.full_like(after, 10.0).pow(after))

    digit, behind = spelt & (ids <= 10), before(ids == EXPONENT) > 0
    front = digit & ~behind
    whole, power = spelt_out(front), spelt_out(digit & behind)
    digits = in_all(front & ((before(front & (ids > 1)) > 0) | (ids > 1)))  # Leading zeros do not count.
    decimals = in_all(front & (before(ids == POINT) > 0))
    power = torch.where(in_all((ids == MINUS) & behind) > 0, -power, power)
    low, high = rounded_to(whole, digits, power - decimals, in_all((ids == MINUS) & ~behind) > 0)
    return low, high, spelt


def number_of(ids: Sequence[int]) -> Interval:
    """The interval that one number says, given its tokens."""
    low, high, _ = numbers(torch.tensor([[0, *ids]]))
    return float(low[0, -1]), float(high[0, -1])


def rounded_to(whole: Tensor, digits: Tensor, power: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and upper ends of the interval of numbers that are written as M 10^s.

    Args:
        whole: Integer M.
        digits: Number of digits of M.
        power: Exponent s.
        negative: Whether the number has a minus sign.
    """
    ten = torch.full_like(whole, 10.0)
    below = 0.5 - 0.45 * ((whole == ten.pow(digits - 1)) & (whole > 0)).to(whole)
    low, high = (whole - below) * ten.pow(power), (whole + 0.5) * ten.pow(power)
    return torch.where(negative, -high, low), torch.where(negative, -low, high)


def quantiles(prior: Prior, z: Float[Tensor, " level"]) -> Float[Tensor, "theta level"]:
    """The quantiles of each parameter at the probabilities Phi(z).

    Phi is the distribution function of the standard normal. The quantiles of a joint distribution are
    estimated from draws.
    """
    rows = list[Tensor]()
    for law, place in prior.places():
        if not law.event_shape and is_normalisable(law):
            rows.append(from_normal(law, z))
            continue
        some = prior.sample(_DRAWS, generator=torch.Generator().manual_seed(0))[:, place].double()
        rows += some.quantile(torch.special.ndtr(z), 0).unbind(1)
    return torch.stack(rows)


def called(names: Sequence[str], phrases: Mapping[str, Sequence[str]]) -> list[list[list[str]]]:
    """The names of each parameter in captions, each a list of words.

    These are the parameter's own name and its phrases. If the own name cannot be used in captions, only the
    phrases are returned, where there are any. A name cannot be used if another parameter has the same name or
    phrase, or if the name contains a word of levels or numbers.

    Args:
        names: Names of the parameters.
        phrases: Mapping from a parameter to its further names.
    """
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
    """Whether words cannot be a name: there are none, or some of them are parts of levels or numbers."""
    return not words or bool({*words} & {*SPELT, *(word for level in LEVELS for word in level.split())})
