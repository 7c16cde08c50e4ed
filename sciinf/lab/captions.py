r"""Captions, which describe intervals of a simulator's parameters in words.

A caption is a subject followed by clauses in any order, one for each parameter that the caption describes:

    flow of very low viscosity (0.0012 m2/s) and strength that is high

A clause has a *level*, a *number*, or both. A level is a fifth of the prior. With F the parameter's
distribution function, "very low" means F(theta) < 1/5, "low" means 1/5 <= F(theta) < 2/5, and so on to "very
high". A number means all values that round to it: 0.0012 and 1.2e-3 mean the interval from 0.00115 to
0.00125. A caption thus says an interval for each parameter that it describes, and nothing about the other
parameters. The wording is drawn independently of the parameters. Hence

    p(theta | caption) = p(theta) restricted to the intervals, and normalised.

`Captions.drawn` draws from this distribution. The distribution of solutions given a caption is that of
solutions at such parameters.

The vocabulary consists of the words, digits, signs and units that the grammar can produce. Capitals, articles
and full stops are ignored in reading.

References:
    | Text2PDE: Latent Diffusion Models for Accessible Physics Simulation (Zhou et al., 2024),
      https://arxiv.org/abs/2410.01153
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Prior
from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.lab._wording import (
    ALONE,
    ARTICLES,
    JOINS,
    LEVELS,
    MARKS,
    NUMBER,
    OPENINGS,
    PIECE,
    SKIPPED,
    SPELT,
    TEMPLATES,
    Interval,
    Unphrased,
    called,
    drawn_within,
    number_of,
    pieces,
    quantiles,
    unsayable,
    worded,
)

if TYPE_CHECKING:
    from sciinf.lab.captions import Captions

_Number = tuple[tuple[int, ...], int]


def intervals(captions: Captions, caption: str) -> dict[str, Interval]:
    """The interval that a caption says for each parameter that it describes.

    Args:
        captions: The captions of a simulator's parameters.
        caption: A caption.

    Returns:
        A mapping from the name of a parameter to the lower and upper ends of its interval.

    Raises:
        Unphrased: If no template of the grammar produces a clause of the caption.
        ValueError: If a word is unknown, a unit is wrong, or the caption contradicts itself.
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
    """The tokens, where the tokens of each number and of its unit are joined to one item.

    Such an item has the tokens of the number, and the token of the unit or 0.
    """
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
    """Whether the tokens begin with the clause. None in the clause stands for any number."""
    return len(pattern) <= len(left) and all(
        isinstance(one, tuple) if sought is None else sought == one for sought, one in zip(pattern, left, strict=False)
    )


_SURE = 8.0  # Values beyond the quantiles at probabilities Phi(-8) and Phi(8) count as impossible.
_LARGEST = 290  # Digits and power of ten together, so that a number fits into double precision.


class Grammar(Component):
    """The grammar of captions: the names, subject, templates and digits that they are written with.

    Args:
        phrases: Mapping from a parameter to further names of it. A phrase replaces the parameter's own name
            if captions cannot use the own name. This is so if the name has a word of levels ("high") or
            numbers ("e"), is only an article ("a"), or is a name of another parameter.
        subject: Name of the solutions that captions describe.
        templates: Templates of clauses, with {name}, and {level}, {number} or both. By default `TEMPLATES`,
            which can always be read.
        digits: Possible numbers of significant digits, from 1 to 6; one of them is drawn for each number.
            Parameters that vary little about a large number get as many more digits as needed.
        left_out: Probability that a caption does not describe a parameter, below 1.

    Raises:
        ValueError: If a template lacks {name}, or lacks both {level} and {number}; if a text has signs that
            captions do not have; if phrases or templates are a string instead of a list; or if `digits` or
            `left_out` are out of range. `build` raises it if a phrase belongs to no parameter, or cannot be
            told apart from other phrases or from levels.

    Examples:
        >>> from sciinf import Uniform
        >>> captions = Grammar({"viscosity": ["thickness"]}, "flow").build(Prior(viscosity=Uniform(0.0, 1.0)))
        >>> captions.read("a flow of very low thickness")
        {'viscosity': (-inf, 0.2)}
        >>> captions.text(captions.encode(["A flow with viscosity 0.25."]))
        ['flow with viscosity 0.25']
    """

    def __init__(
        self,
        phrases: Mapping[str, Sequence[str]] | None = None,
        subject: str = "solution",
        *,
        templates: Sequence[str] | None = None,
        digits: Sequence[int] = (2, 3),
        left_out: float = 0.15,
    ) -> None:
        for what, texts in (*(phrases or {}).items(), ("templates", templates or ())):
            if isinstance(texts, str):
                raise ValueError(f"{what!r} is given one text, and takes a list: [{texts!r}]")
        self.phrases = {name: list(dict.fromkeys(map(worded, said))) for name, said in (phrases or {}).items()}
        self.subject, self.templates = worded(subject), tuple(map(worded, templates or TEMPLATES))
        self.digits, self.left_out = tuple(digits), left_out
        if not self.subject:
            raise ValueError(f"the subject {subject!r} has no words: say what captions are of")
        for number in self.digits:
            check_whole("digits", number, 1)
        if not self.digits or max(self.digits) > 6:
            raise ValueError(f"digits are ints from 1 to 6, at least one, got {digits!r}")
        if not 0 <= left_out < 1:
            raise ValueError(f"left_out is a probability below 1, got {left_out!r}")
        for template in self.templates:
            slots = sorted(piece for piece in pieces(template) if piece[0] == "{")
            if slots not in (["{level}", "{name}"], ["{name}", "{number}"], ["{level}", "{name}", "{number}"]):
                raise ValueError(
                    f"{template!r} has {slots}: a template has {{name}}, and {{level}}, {{number}} or both"
                )

    def build(self, prior: Prior) -> Captions:
        """The captions of parameters with this prior."""
        return Captions(self, prior)


class Captions:
    """The captions that a grammar can write about the parameters of a prior, and their meaning.

    Args:
        grammar: The grammar.
        prior: Prior of the parameters.

    Attributes:
        vocabulary: Digits and signs, marks, words and units. A token is an index into it; token 0 is empty.
        names: Names of each parameter, each a list of words.
        units: Token of each parameter's unit, 0 for a parameter without unit.
        edges: Values at which one level ends and the next begins, (parameter, 4).
        ends: Smallest and largest possible values by the prior, (parameter, 2).
        of: Mapping from a word to its token.
        patterns: Clauses that can be read, each with its tokens (None in place of a number), the index of its
            parameter, and its level (None without one).
    """

    def __init__(self, grammar: Grammar, prior: Prior) -> None:
        if not len(prior):
            raise ValueError("captions describe parameters, and this prior has none")
        if unknown := [name for name in grammar.phrases if name not in prior.names]:
            raise ValueError(f"phrases are given for {unknown}; the parameters are {', '.join(prior.names)}")
        self.grammar, self.prior = grammar, prior
        self.names = called(prior.names, grammar.phrases)
        said = [phrase for phrases in self.names for phrase in phrases]
        if twice := sorted({" ".join(phrase) for phrase in said if said.count(phrase) > 1}):
            raise ValueError(f"{twice} would be said of more than one parameter: give each phrases of its own")
        for name, phrases in zip(prior.names, self.names, strict=True):
            if wrong := [" ".join(phrase) for phrase in phrases if unsayable(phrase)]:
                raise ValueError(
                    f"captions cannot call {name!r} {wrong[0]!r}, which has a word of levels or numbers, or none but "
                    f"articles: give other phrases, Grammar({{{name!r}: [...]}})"
                )
        texts = (*TEMPLATES, *grammar.templates, *OPENINGS, ALONE, *LEVELS, *JOINS, grammar.subject)
        words = {piece for text in texts for piece in pieces(text) if piece[0] != "{" and piece not in MARKS}
        words |= {word for phrase in said for word in phrase}
        plain = ("", *SPELT, *MARKS, *sorted(words))
        self.of, units = {word: k for k, word in enumerate(plain)}, sorted({unit for unit in prior.units if unit})
        self.vocabulary = (*plain, *units)
        self.units = [len(plain) + units.index(unit) if unit else 0 for unit in prior.units]
        self.edges = quantiles(prior, torch.special.ndtri(torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)))
        self.ends = quantiles(prior, torch.tensor([-_SURE, _SURE], dtype=torch.float64))
        self.patterns = [
            (self._filled(template, phrase, level), place, level)
            for template in dict.fromkeys((*grammar.templates, *TEMPLATES))
            for place, phrases in enumerate(self.names)
            for phrase in phrases
            for level in (range(len(LEVELS)) if "{level}" in template else (None,))
        ]

    def ids(self, text: str) -> list[int]:
        """The tokens of a text of words and marks."""
        return [self.of[piece] for piece in pieces(text)]

    def opening(self, text: str) -> list[int]:
        """The tokens of an opening, with the subject filled in."""
        return self.ids(text.format(subject=self.grammar.subject))

    def _filled(self, template: str, phrase: Sequence[str], level: int | None) -> list[int | None]:
        """The tokens of a clause, with None in place of its number."""
        told = {"{name}": " ".join(phrase), "{level}": "" if level is None else LEVELS[level]}
        parts = [[None] if p == "{number}" else self.ids(told.get(p, p)) for p in pieces(template)]
        return [one for part in parts for one in part]

    def encode(self, texts: Sequence[str], length: int = 0) -> Int[Tensor, "batch token"]:
        """The tokens of captions, padded with 0 to the length of the longest.

        Args:
            texts: Captions.
            length: Smallest length of the result, in tokens.

        Raises:
            ValueError: If a word is unknown, a caption is empty, or `texts` is no list of texts.
        """
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"captions are a list of texts, as ['any {self.grammar.subject}'], got {texts!r}")
        rows = [self.tokens(text) for text in texts]
        longest = max([length, *map(len, rows)])
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)

    def tokens(self, caption: str) -> list[int]:
        """The tokens of a caption.

        Raises:
            ValueError: If a word is unknown, two numbers are adjacent, or the caption is empty.
        """
        found, left = list[int](), _after_stops(caption)
        while left:
            number, piece = NUMBER.match(left), PIECE.match(left)
            word = number[0] if number else piece[0] if piece else re.split(r"\s", left)[0]
            left = left[len(word) :]
            if number:
                if found and found[-1] <= len(SPELT):
                    raise ValueError(f"two numbers stand side by side in the caption {caption!r}: put words between")
                found += self._number(word, caption)
                for unit in sorted(self.units, key=lambda k: -len(self.vocabulary[k])):
                    if unit and (after := re.match(rf"\s*{re.escape(self.vocabulary[unit])}(?!\w)", left)):
                        found, left = [*found, unit], left[after.end() :]
                        break
            elif word.lower() not in ARTICLES:
                found.append(self._known(word, caption))
            left = _after_stops(left)
        if not found:
            raise ValueError(f"the caption {caption!r} says nothing")
        return found

    def _number(self, word: str, caption: str) -> list[int]:
        """The tokens of a number, as the grammar writes it: a digit before the point, and no leading plus."""
        word = word.lower().removeprefix("+")
        mantissa, _, power = word.partition("e")
        if len(mantissa) + abs(int(power or 0)) > _LARGEST:
            raise ValueError(f"the number {word} of the caption {caption!r} is too large, too small or too long")
        return [self.of[sign] for sign in re.sub(r"^(-?)\.", r"\g<1>0.", word)]

    def _known(self, word: str, caption: str) -> int:
        if word.lower() in self.of and word.lower() not in SPELT:
            return self.of[word.lower()]
        known = [one for one in self.of if one[:1].isalpha() and one not in SPELT]
        near = difflib.get_close_matches(word.lower(), known, 3)
        told = f"near ones are {', '.join(near)}" if near else f"known are {', '.join(sorted(known))}"
        units = f"; after numbers {', '.join(sorted(unit for unit in self.prior.units if unit))}"
        raise ValueError(f"the word {word!r} of the caption {caption!r} is unknown; {told}{units * any(self.units)}")

    def text(self, ids: Int[Tensor, "batch token"]) -> list[str]:
        """The captions as texts, given their tokens."""
        return [self._text([k for k in row if k]) for row in ids.tolist()]

    def _text(self, row: Sequence[int]) -> str:
        told, before = "", ""
        for word in (self.vocabulary[k] for k in row):
            close = not told or before == "(" or word in (")", ",", ":") or (word in SPELT and before in SPELT)
            told, before = told + ("" if close else " ") + word, word
        return told

    def read(self, caption: str) -> dict[str, Interval]:
        """The interval that a caption says for each parameter that it describes; see `intervals`.

        Raises:
            ValueError: If a word is unknown, the caption does not follow the grammar, or it contradicts
                itself.
        """
        return intervals(self, caption)

    def check_possible(self, caption: str, said: Mapping[str, Interval]) -> None:
        """Check that the prior allows what a caption says, for each parameter separately.

        Args:
            caption: The caption, for the message.
            said: Intervals that the caption says, by parameter.

        Raises:
            ValueError: If an interval is outside the range of its parameter. The message gives the range.
        """
        for name, (least, most) in zip(self.prior.names, self.ends.tolist(), strict=True):
            low, high = said.get(name, (least, most))
            if low > most or high < least:
                raise ValueError(
                    f"the caption {caption!r} is impossible by the prior, by which {name!r} is from {least:.5g} to "
                    f"{most:.5g}: write a caption within that range"
                )

    def drawn(self, caption: str, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """Draw parameters from the prior, restricted to the intervals that a caption says.

        Args:
            caption: The caption.
            n: Number of draws.
            generator: Source of randomness.

        Raises:
            ValueError: If the caption cannot be read, or the prior gives the intervals probability 0. For a
                joint distribution, also if the intervals are too improbable for draws to be found.
        """
        at = torch.rand(n, len(self.prior), generator=generator, device=generator.device, dtype=torch.float64)
        return self.within(self.read(caption), at.cpu())

    def within(self, said: Mapping[str, Interval], at: Float[Tensor, "n theta"]) -> Float[Tensor, "n theta"]:
        """Parameters from the prior, restricted to intervals, as a function of uniform numbers.

        Args:
            said: Intervals by parameter. Parameters without one are not restricted.
            at: Uniform numbers from 0 to 1, one for each parameter and draw.

        Raises:
            ValueError: If the prior gives the intervals probability 0. For a joint distribution, also if the
                intervals are too improbable for draws to be found.
        """
        columns = list[Tensor]()
        for law, place in self.prior.places():
            box = torch.tensor([said.get(name, (-math.inf, math.inf)) for name in self.prior.names[place]]).double().T
            found = drawn_within(law, box, at[:, place], self.prior.dtype)
            if len(found) < len(at):
                raise ValueError(f"what a caption says, {told(said)}, is too improbable by the prior to be drawn")
            columns.append(found)
        return torch.cat(columns, 1)


def told(said: Mapping[str, Interval]) -> str:
    """The intervals of the parameters, as text."""
    return ", ".join(f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in said.items()) or "nothing"


def _after_stops(text: str) -> str:
    """The text without leading spaces and full stops."""
    stops = SKIPPED.match(text)
    return text[stops.end() :] if stops else text
