r"""A writer of captions for rows of parameters, as tokens, with the intervals that the captions say.

All rows are written at once. A caption is composed of parts with fixed numbers of places, each of which has a
token or 0. Places with 0 are moved to the end. A number v with k significant digits is written as |v| = M
10^s, M an integer of k digits. It says that |theta| lies between (M - 1/2) 10^s and (M + 1/2) 10^s. If M is
the smallest integer of k digits, the interval begins at (M - 1/20) 10^s, because smaller numbers are written
with finer steps.

The ends of intervals are expressed as scores z with P(theta < v) = Phi(z), by linear interpolation between
quantiles, from -3 to 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciinf.lab._wording import (
    ALONE,
    EXPONENT,
    JOINS,
    LEVELS,
    MINUS,
    OPENINGS,
    POINT,
    pieces,
    quantiles,
    rounded_to,
)
from sciinf.lab.captions import Captions

MOST, _SEGMENTS = 3.0, 40  # Largest score, and number of segments between the quantiles.
# Most zeros after the point. Smaller numbers have an exponent, and integers with more places than digits.
_ZEROS = 3
_UNIT = 0.8  # Probability that a number has its unit.
# Captions that are read back to check a grammar, and the tolerance of their scores.
_TRIED, _ALIKE = 200, 1e-3


class Written(NamedTuple):
    """Captions as tokens, with the intervals of each parameter that they say.

    Args:
        ids: Tokens of the captions.
        low: Scores of the lower ends.
        high: Scores of the upper ends.
        filling: Whether a token carries no information on the intervals.
    """

    ids: Int[Tensor, "batch token"]
    low: Float[Tensor, "batch theta"]
    high: Float[Tensor, "batch theta"]
    filling: Bool[Tensor, "batch token"]


class _Chosen(NamedTuple):
    """The random choices of wording: an opening for each caption, and the parts of each parameter's clause.

    Args:
        opening: Index of the opening, (batch).
        turn: Order of the parameters in the caption, (batch, theta).
        told: Whether the caption describes the parameter, (batch, theta).
        template: Index of the clause's template, (batch, theta).
        phrase: Index of the parameter's name, (batch, theta).
        digits: Number of significant digits, (batch, theta).
        plain: Whether a number is written without exponent if possible, (batch, theta).
        unit: Whether a number is written with its unit, (batch, theta).
        join: Index of the word between two clauses, (batch, theta).
    """

    opening: Tensor
    turn: Tensor
    told: Tensor
    template: Tensor
    phrase: Tensor
    digits: Tensor
    plain: Tensor
    unit: Tensor
    join: Tensor


class Writer(nn.Module):
    """A writer of captions with random wording.

    Args:
        captions: Captions of a prior's parameters.

    Attributes:
        length: Largest number of tokens of a caption.
        folded: Largest number of tokens of a caption, a number counted as one token.

    Raises:
        ValueError: If numbers would need more than fifteen digits, or one of several test captions is not
            read with the meaning that it was written for.
    """

    edges: Tensor
    scores: Tensor
    more: Tensor
    units: Tensor
    digits: Tensor
    counts: Tensor
    levels: Tensor
    names: Tensor
    openings: Tensor
    joins: Tensor
    says: Tensor
    met: Tensor

    def __init__(self, captions: Captions) -> None:
        super().__init__()
        self.captions, grammar, prior = captions, captions.grammar, captions.prior
        scores = quantiles(prior, torch.linspace(-MOST, MOST, _SEGMENTS + 1, dtype=torch.float64))
        wide = (captions.edges[:, 3] - captions.edges[:, 0]).clamp_min(1e-300)
        more = (scores.abs().amax(1) / wide).log10().floor().clamp_min(0).long()
        self.most = int(more.max()) + max(grammar.digits)
        if self.most > 15:
            raise ValueError(
                f"numbers of {prior} need {self.most} digits, and 15 are possible: give the parameter as an "
                "offset from a typical value"
            )
        phrases = [[captions.ids(" ".join(phrase)) for phrase in each] for each in captions.names]
        widest = max(len(phrase) for each in phrases for phrase in each)
        many = max(map(len, phrases))
        kept = {
            "edges": captions.edges,
            "scores": scores,
            "more": more,
            "units": torch.tensor(captions.units),
            "digits": torch.tensor(grammar.digits),
            "counts": torch.tensor([len(each) for each in phrases]),
            "levels": _padded([captions.ids(level) for level in LEVELS]),
            "names": torch.stack([_padded([*each, *[[0]] * (many - len(each))], widest) for each in phrases]),
            "openings": _padded([captions.opening(one) for one in (*OPENINGS, ALONE)]),
            "joins": torch.tensor([captions.ids(one)[0] for one in JOINS]),
            "says": torch.tensor([[f"{{{slot}}}" in one for slot in ("level", "number")] for one in grammar.templates]),
        }
        for name, value in kept.items():
            self.register_buffer(name, value, persistent=False)
        met = nn.functional.pad(self.score(captions.edges.mT).mT, (1, 0), value=-MOST)
        self.register_buffer("met", nn.functional.pad(met, (0, 1), value=MOST), persistent=False)
        self.length, self.folded = self._longest(self.most + 9), self._longest(2)
        self._check_read_back()

    def _longest(self, number: int) -> int:
        """The largest number of tokens of a caption, if a number with its unit has `number` tokens."""
        wide = {"{name}": self.names.shape[2], "{level}": self.levels.shape[1], "{number}": number}
        clause = max(sum(wide.get(piece, 1) for piece in pieces(one)) for one in self.captions.grammar.templates)
        return self.openings.shape[1] + len(self.scores) * (clause + 1)

    def _check_read_back(self) -> None:
        """Check that captions of the grammar are read with the meaning that they were written for.

        Raises:
            ValueError: If one of `_TRIED` random captions is read with other intervals.
        """
        draw, names = torch.Generator().manual_seed(0), self.captions.prior.names
        written = self.anew(self.captions.prior.sample(_TRIED, generator=draw), generator=draw)
        for text, low, high in zip(self.captions.text(written.ids), written.low, written.high, strict=True):
            try:
                said = self.captions.read(text)
            except ValueError as error:
                told = str(error)
            else:
                ends = torch.tensor([said.get(name, (-math.inf, math.inf)) for name in names], dtype=torch.float64)
                if torch.allclose(self.score(ends.mT).mT.float(), torch.stack([low, high], 1), atol=_ALIKE):
                    continue
                told = f"it is read as {said}"
            raise ValueError(
                f"this grammar would write {text!r}, and not read it with that meaning: {told}. Give other "
                "phrases, another subject or other templates"
            )

    def anew(self, theta: Float[Tensor, "batch theta"], *, generator: torch.Generator) -> Written:
        """Write a caption with random wording for each row of parameters."""
        size = (len(theta), 1 + 8 * theta.shape[1])
        drawn = torch.rand(size, generator=generator, device=generator.device).to(theta.device)
        each = drawn[:, 1:].unflatten(1, (8, -1)).unbind(1)

        def one_of(chance: Tensor, count: int | Tensor) -> Tensor:
            return (chance * count).long()

        chosen = _Chosen(
            one_of(drawn[:, 0], len(OPENINGS)),
            each[0].argsort(1),
            each[1] >= self.captions.grammar.left_out,
            one_of(each[2], len(self.captions.grammar.templates)),
            one_of(each[3], self.counts),
            self.digits[one_of(each[4], len(self.digits))],
            each[5] < 0.5,
            each[6] < _UNIT,
            one_of(each[7], len(JOINS)),
        )
        return self._put(theta, chosen)

    def _put(self, theta: Tensor, chosen: _Chosen) -> Written:
        """Write captions with given wording: an opening, then the clauses in their order."""
        theta, none = theta.double(), torch.zeros_like(chosen.template)[..., None]
        level = (theta[..., None] >= self.edges).sum(-1)
        number, low, high = self._number(theta, chosen.digits + self.more, chosen.plain)
        number = torch.cat([number, (chosen.unit * self.units)[..., None]], -1)
        place = torch.arange(theta.shape[1], device=theta.device)
        name = self.names[place, chosen.phrase]
        slots = {"{name}": name, "{level}": self.levels[level], "{number}": number}
        clauses, filling = list[Tensor](), list[Tensor]()
        for template in self.captions.grammar.templates:
            told = pieces(template)
            parts = [slots[p] if p in slots else none + self.captions.ids(p)[0] for p in told]
            clauses.append(torch.cat(parts, -1))
            filling.append(
                torch.cat([torch.full_like(part, p not in slots) for p, part in zip(told, parts, strict=True)], -1)
            )
        clause, filled = (_chosen_of(each, chosen.template) for each in (clauses, filling))
        turn = chosen.turn[..., None].expand_as(clause)
        told = chosen.told.gather(1, chosen.turn)
        clause, filled = clause.gather(1, turn) * told[..., None], filled.gather(1, turn)
        join = self.joins[chosen.join] * (told & (told.cumsum(1) > 1))
        opening = self.openings[torch.where(told.any(1), chosen.opening, len(OPENINGS))]
        ids = torch.cat([opening, torch.cat([join[..., None], clause], -1).flatten(1)], 1)
        mere = torch.cat([torch.ones_like(opening), torch.cat([none, filled], -1).flatten(1)], 1)
        ids, mere = (part[:, : self.length] for part in squeezed(ids, mere))
        says, least = self.says[chosen.template] & chosen.told[..., None], torch.full_like(theta, -MOST)
        above, below = self.met[place, level], self.met[place, level + 1]
        low = torch.where(says[..., 1], self.score(low), least).maximum(torch.where(says[..., 0], above, least))
        high = torch.where(says[..., 1], self.score(high), -least).minimum(torch.where(says[..., 0], below, -least))
        return Written(ids, low.float(), high.float(), (mere > 0) & (ids > 0))

    def _number(self, value: Tensor, digits: Tensor, plain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens of numbers, with the lower and upper ends of the intervals that they say.

        Args:
            value: Numbers.
            digits: Number of significant digits.
            plain: Whether a number is written without exponent if possible.
        """
        size, one = value.abs(), torch.ones_like(value)
        power = size.clamp_min(1e-300).log10().floor()
        # Rounding of the logarithm, or of a number such as 9.99, can change the place of the first digit.
        for _ in range(2):
            whole = (size * (10 * one).pow(digits - 1 - power)).round()
            power = power + (whole >= (10 * one).pow(digits)).double() - (whole < (10 * one).pow(digits - 1)).double()
        power = torch.where(size == 0, 0 * one, power)
        whole = (size * (10 * one).pow(digits - 1 - power)).round()
        low, high = rounded_to(whole, digits, power - digits + 1, value < 0)
        power, whole = power.long(), whole.long()
        with_power = ~plain | (power < -_ZEROS - 1) | (power >= digits)
        small = ~with_power & (power < 0)
        zero = torch.zeros_like(power)
        found = [torch.where(value < 0, MINUS, zero), small * 1, small * POINT]
        found += [(small & (j < -power - 1)) * 1 for j in range(_ZEROS)]
        stop = torch.where(with_power, 0, power)
        for i in range(self.most):
            digit = whole // 10 ** (digits - 1 - i).clamp_min(0) % 10
            found += [torch.where(i < digits, digit + 1, zero), ((stop == i) & (i < digits - 1)) * POINT]
        found += [with_power * EXPONENT, (with_power & (power < 0)) * MINUS]
        far = power.abs()
        found += [torch.where(with_power & (far >= least), far // ten % 10 + 1, zero) for least, ten in _TENS]
        return torch.stack(found, -1), low, high

    def score(self, value: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch theta"]:
        """The scores z of values of the parameters, from -3 to 3."""
        below, steps = self.scores[:, :-1], self.scores.diff(dim=1).clamp_min(1e-300)
        return ((value[..., None] - below) / steps).clamp(0, 1).sum(-1) * (2 * MOST / _SEGMENTS) - MOST

    def value(self, score: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch theta"]:
        """The values of the parameters that have these scores."""
        at = ((score.double().clamp(-MOST, MOST) + MOST) / (2 * MOST / _SEGMENTS)).clamp(0, _SEGMENTS - 1e-9)
        whole = at.floor().long()
        place = torch.arange(len(self.scores), device=score.device).expand_as(whole)
        below, above = self.scores[place, whole], self.scores[place, whole + 1]
        return below + (at - whole) * (above - below)


_TENS = ((100, 100), (10, 10), (0, 1))


def squeezed(ids: Int[Tensor, "batch token"], *others: Tensor) -> list[Tensor]:
    """The tokens and tensors with one entry per token, reordered so that zeros stand at the end of each row.

    Args:
        ids: Tokens, 0 in empty places.
        others: Tensors (batch, token, ...) that are reordered alike.
    """
    order = (ids == 0).long().argsort(dim=1, stable=True)
    flat = (one.flatten(2) if one.ndim > 2 else one[..., None] for one in others)
    found = (one.gather(1, order[..., None].expand(*order.shape, one.shape[2])) for one in flat)
    return [ids.gather(1, order), *(one.reshape(other.shape) for one, other in zip(found, others, strict=True))]


def _padded(rows: Sequence[Sequence[int]], width: int = 0) -> Tensor:
    longest = max([width, *map(len, rows)])
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def _chosen_of(each: Sequence[Tensor], which: Tensor) -> Tensor:
    """The rows of tensors (batch, theta, place) that the indices `which` select, padded with 0.

    Args:
        each: Tensors that differ in their number of places.
        which: Index of the tensor for each row and parameter, (batch, theta).
    """
    longest = max(one.shape[-1] for one in each)
    stacked = torch.stack([nn.functional.pad(one, (0, longest - one.shape[-1])) for one in each], 2)
    return stacked.gather(2, which[..., None, None].expand(*which.shape, 1, longest))[:, :, 0]
