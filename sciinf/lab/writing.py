r"""Captions written for rows of parameters, as tokens, and the numbers in them; all rows at once.

A caption is put together from parts of fixed numbers of places, which hold a token or nothing, and what is nothing is
squeezed out at the end. A number v with k significant digits is |v| = M 10^s, M an integer of k digits; it says that
theta lies between (M - 1/2) 10^s and (M + 1/2) 10^s, or from (M - 1/20) 10^s on where M is a power of ten, below which
numbers are written more finely.

What is said is told in scores: z with P(theta < v) = Phi(z), by linear interpolation between quantiles, from -3 to 3.
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

MOST, _SEGMENTS = 3.0, 40  # of a score
_ZEROS = 3  # after a point at most; beyond, and above its digits, a number has an exponent
_UNIT = 0.8  # how often it is said
_TRIED, _ALIKE = 200, 1e-3  # captions that are read back when a grammar is built; scores


class Written(NamedTuple):
    """Captions, what they say of each parameter, as scores from and to, and which tokens are mere filling."""

    ids: Int[Tensor, "batch token"]
    low: Float[Tensor, "batch theta"]
    high: Float[Tensor, "batch theta"]
    filling: Bool[Tensor, "batch token"]


class _Chosen(NamedTuple):
    """How captions are phrased: an opening for each, and for each parameter its turn and the parts of its clause."""

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
    """Writes captions.

    Args:
        captions: Of a prior's parameters.

    Attributes:
        length: Of captions, in tokens, at most.
        folded: The same where a number is one token.

    Raises:
        ValueError: If numbers would need more than fifteen digits, or one of some captions is not read as it is meant.
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
            raise ValueError(f"numbers of {prior} vary in their digit {self.most} alone: give an offset in its place")
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
        """Tokens of a caption at most, where a number with its unit takes so many."""
        wide = {"{name}": self.names.shape[2], "{level}": self.levels.shape[1], "{number}": number}
        clause = max(sum(wide.get(piece, 1) for piece in pieces(one)) for one in self.captions.grammar.templates)
        return self.openings.shape[1] + len(self.scores) * (clause + 1)

    def _check_read_back(self) -> None:
        """Refuse a grammar whose captions can be taken for others.

        Raises:
            ValueError: If one of some that are written at random says something else when it is read.
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
                f"this grammar would write {text!r}, and does not read it as it is meant: {told}. Give other phrases, "
                "another subject or other templates"
            )

    def anew(self, theta: Float[Tensor, "batch theta"], *, generator: torch.Generator) -> Written:
        """Captions phrased at random."""
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
        """Clauses in their turns, after an opening."""
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
        """Tokens of numbers, and from where to where numbers are that are written so."""
        size, one = value.abs(), torch.ones_like(value)
        power = size.clamp_min(1e-300).log10().floor()
        for _ in range(2):  # rounding, of the logarithm or of 9.99, may change the first digit's place
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
        """z of values of the parameters."""
        below, steps = self.scores[:, :-1], self.scores.diff(dim=1).clamp_min(1e-300)
        return ((value[..., None] - below) / steps).clamp(0, 1).sum(-1) * (2 * MOST / _SEGMENTS) - MOST

    def value(self, score: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch theta"]:
        """Values of parameters that have a score."""
        at = ((score.double().clamp(-MOST, MOST) + MOST) / (2 * MOST / _SEGMENTS)).clamp(0, _SEGMENTS - 1e-9)
        whole = at.floor().long()
        place = torch.arange(len(self.scores), device=score.device).expand_as(whole)
        below, above = self.scores[place, whole], self.scores[place, whole + 1]
        return below + (at - whole) * (above - below)


_TENS = ((100, 100), (10, 10), (0, 1))


def squeezed(ids: Int[Tensor, "batch token"], *others: Tensor) -> list[Tensor]:
    """Tokens, and what belongs to each of them, (batch, token, ...), without gaps: what is 0 stands at the end."""
    order = (ids == 0).long().argsort(dim=1, stable=True)
    flat = (one.flatten(2) if one.ndim > 2 else one[..., None] for one in others)
    found = (one.gather(1, order[..., None].expand(*order.shape, one.shape[2])) for one in flat)
    return [ids.gather(1, order), *(one.reshape(other.shape) for one, other in zip(found, others, strict=True))]


def _padded(rows: Sequence[Sequence[int]], width: int = 0) -> Tensor:
    longest = max([width, *map(len, rows)])
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def _chosen_of(each: Sequence[Tensor], which: Tensor) -> Tensor:
    """Of tensors (batch, theta, place) those that `which` (batch, theta) names, padded by 0."""
    longest = max(one.shape[-1] for one in each)
    stacked = torch.stack([nn.functional.pad(one, (0, longest - one.shape[-1])) for one in each], 2)
    return stacked.gather(2, which[..., None, None].expand(*which.shape, 1, longest))[:, :, 0]
