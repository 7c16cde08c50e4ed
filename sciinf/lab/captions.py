r"""Captions: what is known of parameters, in words.

A caption is a subject and clauses, one for each parameter that it tells of, in any order:

    flow of very low viscosity (0.0012 m2/s) and strength that is high

Each says a *level*, a *number*, or both. A level is a fifth of the prior: with F the parameter's distribution function,
"very low" says F(theta) < 1/5, "low" 1/5 <= F(theta) < 2/5, and so on to "very high". A number says what rounds to it:
0.0012 and 1.2e-3 are from 0.00115 to 0.00125. So a caption says an interval for each parameter, and nothing of those
that it leaves out. How it is said is drawn without a look at the parameters. Hence

    p(theta | caption) = p(theta) restricted to the intervals, and normalised,

which is what `Captions.drawn` draws, and the law of solutions given a caption is the one over such parameters.

The vocabulary is what the grammar can say: words, digits, signs, units. Capitals, articles and full stops are passed
over.

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


_SURE = 8.0  # sds of a normal number, beyond which nothing is
_LARGEST = 290  # power of ten


class Grammar(Component):
    """How captions of a simulator's parameters are written.

    Args:
        phrases: Parameter -> what it may be called beside its name; in place of it, where the name cannot be said: it
            has a word of levels ("high") or numbers ("e"), nothing but an article ("a"), or is another's.
        subject: What captions are of.
        templates: Clauses, with {name}, and {level}, {number} or both; `TEMPLATES` where left out, whose words are
            known always.
        digits: Significant digits of numbers, one of these each time. Parameters that vary little about a large number
            get as many more as that takes.
        left_out: How probable it is that a parameter is not told of.

    Raises:
        ValueError: If a template has no {name}, or nothing to say of it, there is something in a text that captions do
            not have, phrases or templates are a string in place of a list, digits are no int from 1 to 6, or
            `left_out` is no probability below 1; when built, if phrases are of no parameter, or cannot be told from
            each other or from levels.

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
            raise ValueError(f"digits are ints from 1 to 6, got {digits!r}")
        if not 0 <= left_out < 1:
            raise ValueError(f"left_out is a probability below 1, got {left_out!r}")
        for template in self.templates:
            slots = sorted(piece for piece in pieces(template) if piece[0] == "{")
            if slots not in (["{level}", "{name}"], ["{name}", "{number}"], ["{level}", "{name}", "{number}"]):
                raise ValueError(
                    f"{template!r} has {slots}: a template has {{name}}, and {{level}}, {{number}} or both"
                )

    def build(self, prior: Prior) -> Captions:
        """The captions of a simulator's parameters."""
        return Captions(self, prior)


class Captions:
    """What a grammar says of a prior's parameters; arguments are those of `Grammar.build`.

    Attributes:
        vocabulary: Digits and signs, marks, words and units; a token is a place in it, 0 is nothing.
        names: For each parameter what it is called, each in words.
        units: For each parameter the token of its unit, 0 where it has none.
        edges: (parameter, 4), where levels meet.
        ends: (parameter, 2), beyond which the prior has nothing.
        of: Token of a word.
        patterns: Clauses that can be read: tokens, None where a number stands, a parameter's place and a level.
    """

    def __init__(self, grammar: Grammar, prior: Prior) -> None:
        if not len(prior):
            raise ValueError("captions tell of parameters, and this prior has none")
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
        """Of words and marks."""
        return [self.of[piece] for piece in pieces(text)]

    def opening(self, text: str) -> list[int]:
        """Ids of an opening."""
        return self.ids(text.format(subject=self.grammar.subject))

    def _filled(self, template: str, phrase: Sequence[str], level: int | None) -> list[int | None]:
        """A clause, None where its number stands."""
        told = {"{name}": " ".join(phrase), "{level}": "" if level is None else LEVELS[level]}
        parts = [[None] if p == "{number}" else self.ids(told.get(p, p)) for p in pieces(template)]
        return [one for part in parts for one in part]

    def encode(self, texts: Sequence[str], length: int = 0) -> Int[Tensor, "batch token"]:
        """Ids of captions, padded by 0 to the longest, or to a length.

        Raises:
            ValueError: If a word is unknown, nothing is said, or captions are no list of texts.
        """
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"captions are a list of texts, as ['any {self.grammar.subject}'], and got {texts!r}")
        rows = [self.tokens(text) for text in texts]
        longest = max([length, *map(len, rows)])
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)

    def tokens(self, caption: str) -> list[int]:
        """Those of a caption."""
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
        """Tokens of a number, as captions are written: with a digit before the point, and no plus before that."""
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
        """Captions of ids."""
        return [self._text([k for k in row if k]) for row in ids.tolist()]

    def _text(self, row: Sequence[int]) -> str:
        told, before = "", ""
        for word in (self.vocabulary[k] for k in row):
            close = not told or before == "(" or word in (")", ",", ":") or (word in SPELT and before in SPELT)
            told, before = told + ("" if close else " ") + word, word
        return told

    def read(self, caption: str) -> dict[str, Interval]:
        """What a caption says: parameter -> from, to, of those that it tells of.

        Raises:
            ValueError: If a word is unknown, the caption is not written as the grammar has it, or contradicts itself.
        """
        return intervals(self, caption)

    def check_possible(self, caption: str, said: Mapping[str, Interval]) -> None:
        """Refuse a caption that says what the prior has not, looking at each parameter by itself.

        Raises:
            ValueError: If it does; the message has the parameter's range.
        """
        for name, (least, most) in zip(self.prior.names, self.ends.tolist(), strict=True):
            low, high = said.get(name, (least, most))
            if low > most or high < least:
                raise ValueError(
                    f"the caption {caption!r} is impossible by the prior, by which {name!r} is from {least:.5g} to "
                    f"{most:.5g}"
                )

    def drawn(self, caption: str, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """Parameters from the prior, restricted to what a caption says.

        Raises:
            ValueError: If that is impossible by the prior, or too improbable to be found, of a joint law.
        """
        at = torch.rand(n, len(self.prior), generator=generator, device=generator.device, dtype=torch.float64)
        return self.within(self.read(caption), at.cpu())

    def within(self, said: Mapping[str, Interval], at: Float[Tensor, "n theta"]) -> Float[Tensor, "n theta"]:
        """Parameters from the prior, restricted to intervals, as a function of even numbers from 0 to 1.

        Raises:
            ValueError: If that is impossible by the prior, or too improbable to be found, of a joint law.
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
    """What is said, in words."""
    return ", ".join(f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in said.items()) or "nothing"


def _after_stops(text: str) -> str:
    """What of a text follows spaces and full stops."""
    stops = SKIPPED.match(text)
    return text[stops.end() :] if stops else text
