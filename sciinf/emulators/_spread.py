r"""Checks on held-out rows whether draws of fields vary as much as they should.

M draws for each held-out row have a variance v, and their mean has an error e. If the distribution of the draws is
right, (1 + 1/M) E v = E e^2, for any quantity computed from a solution. Four kinds of quantities are checked, in each
channel, because a distribution may be right in one and wrong in others:

| quantities | a distribution that fails there |
|---|---|
| points of a frame | has too narrow or too wide draws |
| points of a frame, by parts of space | is too narrow in one part of space, and too wide in another |
| waves of a frame, by octaves | has wrong correlations between points: fields are too rough or too smooth |
| waves along cosines in time, in octaves of both | has wrong correlations between frames |

Waves are Fourier modes on a ring, and cosines where fields have edges. For cosines in time, errors are divided by their
root mean square in each frame, so that late frames do not outweigh the first. Parts of space are eighths of a line, or
sixteenths of a square. Waves and parts with less than a thousandth of a frame's squared error are left out.

**Significance.** If the distribution is right, the solution and the draws of a row are exchangeable: any of them could
be the solution. So the ratios are computed again 200 times, with a random choice among solution and draws in place of
the solution of each row. These repetitions give the sds of the log ratios under a right distribution. A log ratio, in
units of its sd, is significant if it is larger than the largest of all ratios in nine of ten repetitions. Frames with
less than 0.7 of the variance that they should have count as wrong in any case, because a single row may dominate the
error.

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

_BY_CHANCE, _FEWEST = 0.1, 16  # Probability of a false alarm, and the least number of held-out rows for a check.
_SWAPS = 200
_LACKING = 0.7  # A frame with less than this share of its due variance is wrong, whatever the significance.
_CHECKED, _NUMBERS = 256, 2**23  # Limits of the rows that are compared, and of the numbers in them.
_SMALL = 1e-3  # Waves with less than this share of a frame's squared error do not count.
_LEAST = 1e-30  # Lower bound of squares of standardised fields, against division by zero.


@dataclass(frozen=True)
class SpreadComparison:
    """Result of the comparison of draws with held-out rows.

    Attributes:
        missing: Share of the variance that draws lack, (frame, channel, octave), from 0 to 1.
        frames: Root of the ratio of spread to error over all points. If a frame is significantly wrong, it is that of
            the worst frame.
        waves: The same ratio for the worst waves or part of space; 1 if no deviation is significant.
        where: Description of these waves or this part of space.
        spread: Mean over points of the variance of each row's draws, scaled to compare with `error`, (batch,).
        error: Squared error of each row, mean over points, (batch,).
        few: Whether there are too few rows for a check.
    """

    missing: Float[Tensor, "frame channel octave"]
    frames: float
    waves: float
    where: str
    spread: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    few: bool


def first_rows(batches: Callable[[], Iterator[Batch]], numbers: int) -> Batch:
    """The first rows of a pass, as many as are compared if each has so many numbers."""
    most = max(_FEWEST, min(_CHECKED, _NUMBERS // numbers))
    found: list[Batch] = []
    for batch in batches():
        found.append(batch)
        if sum(map(len, found)) >= most:
            break
    whole = Batch(torch.cat([b.theta for b in found]), {n: torch.cat([b.x[n] for b in found]) for n in found[0].x})
    return whole.rows(slice(0, most))


class GridWaves:
    """Waves of a grid: Fourier modes where the grid is a ring or torus, cosines where it has edges.

    Args:
        space: Number of points in each direction; a field without space is its own wave.
        edges: Whether there are edges.

    Attributes:
        octave: Octave of each wave: 0 for the mean, 1 for wave number 1, 2 from 2 on, 3 from 4 on, and so on. The last
            octave that lies completely on an axis also contains all higher waves. Wave numbers of cosines count by
            half, because the first cosine has half a wave.
        count: Number of octaves.
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
        """Coefficients of fields, by a unitary transform."""
        if not self.space:
            return fields[..., None]
        if not self.edges:
            return torch.fft.fftn(fields, dim=self.axes, norm="ortho").flatten(-len(self.space))
        for axis, n in zip(self.axes, self.space, strict=True):
            fields = (fields.movedim(axis, -1) @ cosines(n).to(fields).mT).movedim(-1, axis)
        return fields.flatten(-len(self.space))

    def back(self, waves: Inexact[Tensor, "*batch channel wave"]) -> Float[Tensor, "*batch channel *space"]:
        """Fields with the given coefficients."""
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
        """Name of the waves of an octave, for messages."""
        if octave < 2:
            return f"wave {octave}"
        beyond = octave == self.count - 1
        return f"waves from {2 ** (octave - 1)} on" if beyond else f"waves {2 ** (octave - 1)} to {2**octave - 1}"


class SpaceParts:
    """A partition of space: up to eight parts in one direction, four in each of two, two in each of more.

    Args:
        space: Number of points in each direction; a field without space is one part.

    Attributes:
        ends: Ends of the parts in each direction.
        part: Index of the part of each point.
        count: Number of parts.
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
        """Description of the points of a part, for messages."""
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
        drawn: Draws, standardised like the solutions.
        true: The solutions.
        waves: Waves of the solutions' grid.
        known: Number of first frames that were given.
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
    """The worst figures of several groups of rows: each ratio furthest from 1, and the largest missing shares."""
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
    """Warn if draws vary too little or too much in some waves, or in a part of space.

    Args:
        target: Name of the observable that is drawn.
        found: Comparison of its draws with held-out rows.

    Warns:
        UserWarning: If the spread there is far from the error.
    """
    if ALIKE <= found.waves <= UNLIKE:
        return
    kind = "alike there, and are widened by what is missing" if found.waves < 1 else "unlike there"
    warnings.warn(
        f"held-out simulations show that in {found.where} draws of {target!r} spread {found.waves:.2f} times as "
        f"far as their mean is off (1 if right): they are too {kind}, even if they are right on average. "
        "Train longer, on more solutions, or with a code that keeps more",
        stacklevel=4,
    )


def shown(members: Tensor, summed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Spread and squared error, with each member of a row in turn in the place of the solution.

    The spread is the squares of the other members about their mean, scaled so that a right distribution has the ratio
    1.

    Args:
        members: Coefficients, (member, batch, frame, channel, wave), the solution first.
        summed: A function from squares to the sums that are compared.
    """
    draws, total = len(members) - 1, members.sum(0)
    middle = (total - members) / draws
    own = members.abs().square()
    spread = (own.sum(0) - own - draws * middle.abs().square()).clamp_min(0)
    return (1 + 1 / draws) / max(draws - 1, 1) * summed(spread), summed((members - middle).abs().square())


def _judged(spreads: Sequence[Tensor], errors: Sequence[Tensor], words: _Words) -> SpreadComparison:
    """The comparison, from spreads and errors of four kinds of quantities.

    Each has the shape (member, batch, frame, channel[, octave or part]).
    """
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
    """Masks of the quantities that count: those with more than a small share of the frames' squared error."""
    found = []
    for error in (errors[1], errors[3]):
        level = error[0].mean(0)
        found.append((level > _SMALL * level.sum(-1, keepdim=True)) & (level.sum(-1) > _LEAST)[..., None])
    waves, places = found
    there = errors[0][0].mean(0) > _LEAST
    return [there, waves, waves.any(0).expand(errors[2].shape[2:]), places & (places.shape[-1] > 1)]


@dataclass(frozen=True)
class _Words:
    """Descriptions of waves and parts of space, for messages."""

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
    """Root of the significant ratio that is furthest from 1, and the description of its place."""
    if not bool(odd.any()):
        return 1.0, ""
    place = [int(i) for i in torch.unravel_index((shares.clamp_min(1e-30).log().abs() * odd).argmax(), odd.shape)]
    return float(shares[tuple(place)].clamp_min(0).sqrt()), words(*place)
