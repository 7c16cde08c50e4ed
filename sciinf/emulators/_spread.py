r"""Whether draws of fields are as unlike as they should be, told from held-out rows.

M draws for each held-out row have a variance v, and their mean is off by e. If the law is right, (1 + 1/M) E v = E e^2,
whatever numbers of a solution are looked at. Four kinds are, in each channel, for a law may be right in one and not in
others:

| numbers | a law that fails there |
|---|---|
| points of a frame | is too sure, or not sure enough |
| points of a frame, by parts of space | is too sure in one part, and not sure enough in another |
| waves of a frame, by octaves | has points that go together wrongly: fields are too rough or too smooth |
| waves along cosines in time, in octaves of both | has frames that go together wrongly |

Waves are Fourier's on a ring, cosines where fields have edges. Along cosines in time, errors are taken over their root
mean square in each frame, so that late frames do not outweigh the first. Parts of space are eighths of a line,
sixteenths of a square. Waves and parts with less than a thousandth of a frame's squared error are left out.

**What is chance.** Of a right law the solution and the draws of a row are alike: any of them could be the solution. So
ratios are found again with one that is drawn, in each row, in place of the solution, 200 times. Log ratios are taken
over their sds there, and what is further off than the largest of all of them is in nine of ten is no chance. Frames
with less than 0.7 of the variance that they should have count as wrong in any case: a row may make most of the error.

References:
    | Why Should Ensemble Spread Match the RMSE of the Ensemble Mean? (Fortin et al., 2014),
      https://doi.org/10.1175/JHM-D-14-0008.1
    | Resampling-Based Multiple Testing (Westfall & Young, 1993), the largest of all statistics
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from sciinf.core import Batch
from sciinf.core.surrogate import ALIKE, UNLIKE

_BY_CHANCE, _FEWEST = 0.1, 16  # chance that a right law is found wrong; held-out rows, at least, to tell
_SWAPS = 200
_LACKING = 0.7  # of a frame's variance that should be there; less is no chance, even where a few rows make the error
_CHECKED, _NUMBERS = 256, 2**23  # rows that are compared, and numbers in them, at most
_SMALL = 1e-3  # of a frame's squared error; waves with less do not count
_LEAST = 1e-30  # of squares of standardised fields


@dataclass(frozen=True)
class SpreadComparison:
    """What held-out rows tell of draws.

    Attributes:
        missing: Of their variance, (frame, channel, octave), from 0 to 1.
        frames: Spread over error, a root, of all points; of those of the worst frame where that is no chance.
        waves: The same of the waves, or the part of space, that are worst; 1 where all can be chance.
        where: Which these are.
        spread: Of each row, on average over points, as it should be for its error, (batch,).
        error: Squared, of each row, (batch,).
        few: Whether there are too few rows to tell.
    """

    missing: Float[Tensor, "frame channel octave"]
    frames: float
    waves: float
    where: str
    spread: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    few: bool


def first_rows(batches: Callable[[], Iterator[Batch]], numbers: int) -> Batch:
    """The first rows of a pass, as many as are compared of so many numbers each."""
    most = max(_FEWEST, min(_CHECKED, _NUMBERS // numbers))
    found: list[Batch] = []
    for batch in batches():
        found.append(batch)
        if sum(map(len, found)) >= most:
            break
    whole = Batch(torch.cat([b.theta for b in found]), {n: torch.cat([b.x[n] for b in found]) for n in found[0].x})
    return whole.rows(slice(0, most))


class GridWaves:
    """Waves of a grid: Fourier's where it is a ring or torus, cosines where it has edges.

    Args:
        space: Points in each direction; a field without space is its own wave.
        edges: Whether there are edges.

    Attributes:
        octave: Of each wave: 0 the mean, 1 wave number 1, 2 from 2 on, 3 from 4 on, ...; the last that all waves of an
            axis are in has those beyond, too. Cosines count by half, for the first has half a wave.
        count: Of octaves.
    """

    octave: Int[Tensor, " wave"]

    def __init__(self, space: Sequence[int], *, edges: bool) -> None:
        self.space, self.edges = tuple(space), edges
        self.axes = tuple(range(-len(self.space), 0))
        numbers = [torch.arange(n) / 2 if edges else torch.fft.fftfreq(n, 1 / n).abs() for n in self.space]
        mesh = torch.meshgrid(*numbers, indexing="ij") if numbers else (torch.zeros(1),)
        size = torch.stack(mesh).double().norm(dim=0).flatten()
        octave = torch.where(size > 0, size.clamp_min(1).log2().floor() + 1, torch.zeros_like(size)).long()
        self.octave = octave.clamp_max(max(1, max(self.space, default=1).bit_length() - 2))
        self.count = int(self.octave.max()) + 1

    def of(self, fields: Float[Tensor, "*batch channel *space"]) -> Inexact[Tensor, "*batch channel wave"]:
        """Their coefficients, by a unitary transform."""
        if not self.space:
            return fields[..., None]
        if not self.edges:
            return torch.fft.fftn(fields, dim=self.axes, norm="ortho").flatten(-len(self.space))
        for axis, n in zip(self.axes, self.space, strict=True):
            fields = (fields.movedim(axis, -1) @ cosines(n).to(fields).mT).movedim(-1, axis)
        return fields.flatten(-len(self.space))

    def back(self, waves: Inexact[Tensor, "*batch channel wave"]) -> Float[Tensor, "*batch channel *space"]:
        """Fields of coefficients."""
        if not self.space:
            return waves[..., 0]
        fields = waves.unflatten(-1, self.space)
        if not self.edges:
            return torch.fft.ifftn(fields, dim=self.axes, norm="ortho").real
        for axis, n in zip(self.axes, self.space, strict=True):
            fields = (fields.movedim(axis, -1) @ cosines(n).to(fields)).movedim(-1, axis)
        return fields

    def only(
        self, fields: Float[Tensor, "batch frame channel *space"], weight: Float[Tensor, "frame channel octave"]
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Fields whose waves are multiplied by a weight for each frame, channel and octave."""
        return self.back(self.of(fields) * weight[..., self.octave.to(weight.device)].to(fields))

    def by_octave(self, squares: Float[Tensor, "*batch wave"]) -> Float[Tensor, "*batch octave"]:
        """Sums over the waves of each octave."""
        found = squares.new_zeros(*squares.shape[:-1], self.count)
        return found.index_add_(-1, self.octave.to(squares.device), squares)

    def words(self, octave: int) -> str:
        """Which waves are in an octave."""
        if octave < 2:
            return f"wave {octave}"
        beyond = octave == self.count - 1
        return f"waves from {2 ** (octave - 1)} on" if beyond else f"waves {2 ** (octave - 1)} to {2**octave - 1}"


class SpaceParts:
    """Parts of space: as many as eight in one direction, four in each of two, two in each of more.

    Args:
        space: Points in each direction; a field without space is one part.

    Attributes:
        ends: Of the parts in each direction.
        part: Of each point.
        count: Of parts.
    """

    part: Int[Tensor, " point"]

    def __init__(self, space: Sequence[int]) -> None:
        most = {1: 8, 2: 4}.get(len(space), 2)
        self.ends = [[n * k // min(n, most) for k in range(min(n, most) + 1)] for n in space]
        found = torch.zeros(1, dtype=torch.long)
        for n, ends in zip(space, self.ends, strict=True):
            here = torch.bucketize(torch.arange(n), torch.tensor(ends[1:-1]), right=True)
            found = (found[:, None] * (len(ends) - 1) + here).flatten()
        self.part, self.count = found, int(found.max()) + 1

    def by_part(self, squares: Float[Tensor, "*batch point"]) -> Float[Tensor, "*batch part"]:
        """Sums over the points of each part."""
        found = squares.new_zeros(*squares.shape[:-1], self.count)
        return found.index_add_(-1, self.part.to(squares.device), squares)

    def words(self, part: int) -> str:
        """Where a part is."""
        found = []
        for ends in reversed(self.ends):
            part, k = divmod(part, len(ends) - 1)
            found.append(f"{ends[k]} to {ends[k + 1] - 1}")
        return f"points {' x '.join(reversed(found))}"


def cosines(n: int) -> Float[Tensor, "wave point"]:
    """An orthonormal basis of cosines, the constant first (DCT-II)."""
    at = torch.arange(n, dtype=torch.float64)
    found = (math.pi / max(n, 1) * at[:, None] * (at + 0.5)).cos()
    return found / found.norm(dim=1, keepdim=True)


def compared(
    drawn: Float[Tensor, "draw batch frame channel *space"],
    true: Float[Tensor, "batch frame channel *space"],
    waves: GridWaves,
    *,
    known: int = 0,
) -> SpreadComparison:
    """Compare draws with held-out solutions.

    Args:
        drawn: Standardised, as solutions are.
        true: The solutions.
        waves: Of their grid.
        known: How many of the first frames were given.
    """
    fields, unknown = torch.cat([true[None], drawn])[:, :, known:], true.shape[1] - known
    members, parts = waves.of(fields), SpaceParts(waves.space)
    spread, error = shown(members, waves.by_octave)
    level = error.mean((0, 1)).clamp_min(_LEAST).sqrt()[..., waves.octave.to(error.device)]
    beat, turn = GridWaves((unknown,), edges=True), cosines(unknown)

    def in_time(part: Tensor) -> Tensor:
        return beat.by_octave(waves.by_octave(part).movedim(2, -1)).movedim(-1, 2)

    turned = torch.einsum("kt,mbtcw->mbkcw", turn.to(members), members / level.to(members))
    times = shown(turned, in_time)
    places = shown(fields.flatten(4) if waves.space else fields[..., None], parts.by_part)
    found = [(spread.sum(-1), error.sum(-1)), (spread, error), times, places]
    return _judged([one for one, _ in found], [other for _, other in found], _Words(waves, parts, known))


def worst_of(found: Sequence[SpreadComparison]) -> SpreadComparison:
    """What groups of rows tell together: of each figure the one furthest from 1, of what is missing the most."""
    if len(found) == 1:
        return found[0]
    waves = max(found, key=lambda one: abs(math.log(max(one.waves, _LEAST))))
    frames = max((one.frames for one in found), key=lambda one: abs(math.log(max(one, _LEAST))))
    return SpreadComparison(
        missing=torch.stack([one.missing for one in found]).amax(0),
        frames=frames,
        waves=waves.waves,
        where=waves.where,
        spread=torch.cat([one.spread for one in found]),
        error=torch.cat([one.error for one in found]),
        few=any(one.few for one in found),
    )


def say_what_goes_together_wrongly(target: str, found: SpreadComparison) -> None:
    """Say in which waves, or part of space, draws are too alike or too unlike.

    Args:
        target: What is drawn.
        found: Of its draws.

    Warns:
        UserWarning: If any are.
    """
    if ALIKE <= found.waves <= UNLIKE:
        return
    kind = "alike there, and are widened by what is missing" if found.waves < 1 else "unlike there"
    warnings.warn(
        f"held-out simulations show that in {found.where} draws of {target!r} spread {found.waves:.2f} times as "
        f"far as their mean is off (1 for the right law): they are too {kind}, even if they are right on average. "
        "Train longer, on more solutions, or with a code that keeps more",
        stacklevel=4,
    )


def shown(members: Tensor, summed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """With each member of a row as its solution: squares that the others spread, as they should be, and its own error.

    Args:
        members: Coefficients, (member, batch, frame, channel, wave), the solution first.
        summed: From squares to the sums that are compared.
    """
    draws, total = len(members) - 1, members.sum(0)
    middle = (total - members) / draws
    own = members.abs().square()
    spread = (own.sum(0) - own - draws * middle.abs().square()).clamp_min(0)
    return (1 + 1 / draws) / max(draws - 1, 1) * summed(spread), summed((members - middle).abs().square())


def _judged(spreads: Sequence[Tensor], errors: Sequence[Tensor], words: _Words) -> SpreadComparison:
    """What is no chance, of four kinds of numbers (member, batch, frame, channel[, octave or part])."""
    few, counts = errors[0].shape[1] < _FEWEST, _counting(errors)
    pick = torch.Generator().manual_seed(0)
    who = torch.randint(len(errors[0]), (_SWAPS, errors[0].shape[1]), generator=pick)
    who[0] = 0
    logs = []
    for s, e, counting in zip(spreads, errors, counts, strict=True):
        s, e = (part[:, :, counting].double().cpu() for part in (s, e))
        each = torch.arange(s.shape[1])
        shares = torch.stack([s[one, each].sum(0) / e[one, each].sum(0).clamp_min(_LEAST) for one in who])
        logs.append(shares.clamp_min(_LEAST).log())
    scale = [one[1:].std(0).clamp_min(1e-6) if one.numel() else one[0] for one in logs]
    middle = [one[1:].mean(0) for one in logs]
    off = [(one - m).abs() / d for one, m, d in zip(logs, middle, scale, strict=True)]
    largest = torch.cat(off, 1)[1:].amax(1) if sum(one.shape[1] for one in off) else torch.zeros(1)
    most = largest.quantile(1 - _BY_CHANCE)
    shares, odd = list[Tensor](), list[Tensor]()
    for one, distance, counting in zip(logs, off, counts, strict=True):
        shares.append(torch.ones(counting.shape, dtype=torch.float64))
        odd.append(torch.zeros(counting.shape, dtype=torch.bool))
        shares[-1][counting.cpu()], odd[-1][counting.cpu()] = one[0].exp(), (distance[0] > most) & (not few)
    odd[0] |= (shares[0] < _LACKING) & (not few)
    points, waves, times, places = (
        torch.where(o, 1 - s, torch.zeros_like(s)) for s, o in zip(shares, odd, strict=True)
    )
    missing = torch.maximum(points, places.amax(-1))[..., None].maximum(waves)
    missing = missing.maximum(times.amax(0) if len(times) else torch.zeros_like(waves))
    whole = spreads[0][0].sum() / errors[0][0].sum().clamp_min(_LEAST)
    given, said = points.new_zeros(words.known, *missing.shape[1:]), (words.frame, words.time, words.place)
    named = [_oddest(share, out, say) for share, out, say in zip(shares[1:], odd[1:], said, strict=True)]
    worst, where = max(named, key=lambda one: abs(math.log(max(one[0], 1e-15))))
    return SpreadComparison(
        missing=torch.cat([given, missing.clamp(0, 1)]),
        frames=_oddest(shares[0], odd[0], words.frame)[0] if bool(odd[0].any()) else float(whole.sqrt()),
        waves=worst,
        where=where,
        spread=spreads[0][0].flatten(1).mean(1),
        error=errors[0][0].flatten(1).mean(1),
        few=few,
    )


def _counting(errors: Sequence[Tensor]) -> list[Tensor]:
    """Which numbers are looked at: those that make more than a small share of what frames are off by."""
    found = []
    for error in (errors[1], errors[3]):
        level = error[0].mean(0)
        found.append((level > _SMALL * level.sum(-1, keepdim=True)) & (level.sum(-1) > _LEAST)[..., None])
    waves, places = found
    there = errors[0][0].mean(0) > _LEAST
    return [there, waves, waves.any(0).expand(errors[2].shape[2:]), places & (places.shape[-1] > 1)]


@dataclass(frozen=True)
class _Words:
    """Waves and parts of space in words."""

    waves: GridWaves
    parts: SpaceParts
    known: int

    def place(self, frame: int, channel: int, part: int) -> str:
        return f"{self.parts.words(part)} of frame {self.known + frame}, channel {channel}"

    def frame(self, frame: int, channel: int, octave: int = 0) -> str:
        return f"{self.waves.words(octave)} of frame {self.known + frame}, channel {channel}"

    def time(self, beat: int, channel: int, octave: int) -> str:
        over = "changes over time" if beat else "the mean over frames"
        return f"{self.waves.words(octave)} of {over}, channel {channel}"


def _oddest(shares: Tensor, odd: Tensor, words: Callable[..., str]) -> tuple[float, str]:
    """The root of the share that is furthest from 1, of those that are odd, and where it is."""
    if not bool(odd.any()):
        return 1.0, ""
    place = [int(i) for i in torch.unravel_index((shares.clamp_min(1e-30).log().abs() * odd).argmax(), odd.shape)]
    return float(shares[tuple(place)].clamp_min(0).sqrt()), words(*place)
