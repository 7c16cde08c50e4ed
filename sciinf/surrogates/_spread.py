r"""Whether draws of fields are as unlike as they should be, told from held-out rows.

M draws for each held-out row have a variance v, and their mean is off by e. If the law is right, (1 + 1/M) E v = E e^2,
whatever numbers of a solution are looked at. Three kinds are, for a law may be right in one and not in others:

| numbers | a law that fails there |
|---|---|
| points of a frame | is too sure, or not sure enough |
| waves of a frame, by octaves | has points that go together wrongly: fields are too rough or too smooth |
| waves along cosines in time, in octaves of both | has frames that go together wrongly |

Along cosines, errors are taken over their root mean square in each frame, so that late frames do not outweigh the
first. Waves with less than a thousandth of a frame's squared error are left out. Of a right law, any of all these
ratios is further from 1 than chance explains once in twenty times on either side (Bonferroni).

References:
    | Why Should Ensemble Spread Match the RMSE of the Ensemble Mean? (Fortin et al., 2014),
      https://doi.org/10.1175/JHM-D-14-0008.1
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Batch
from sciinf.core.surrogate import ALIKE, UNLIKE

_BY_CHANCE, _FEWEST = 0.05, 16  # chance that a right law is found wrong; held-out rows, at least, to tell
_LACKING = 0.7  # of a frame's variance that should be there; less is no chance, even where a few rows make the error
_SMALL = 1e-3  # of a frame's squared error; waves with less do not count


@dataclass(frozen=True)
class Compared:
    """What held-out rows tell of draws.

    Attributes:
        missing: Of their variance, (frame, octave), from 0 to 1.
        frames: Spread over error, a root, of all points; of those of the worst frame where that is no chance.
        waves: The same of the waves that are worst; 1 where all can be chance.
        where: Which waves these are.
        spread: Of each row, on average over points, as it should be for its error, (batch,).
        error: Squared, of each row, (batch,).
        few: Whether there are too few rows to tell.
    """

    missing: Float[Tensor, "frame octave"]
    frames: float
    waves: float
    where: str
    spread: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    few: bool


def first_rows(batches: Callable[[], Iterator[Batch]], most: int) -> Batch:
    """The first rows of a pass."""
    found: list[Batch] = []
    for batch in batches():
        found.append(batch)
        if sum(map(len, found)) >= most:
            break
    whole = Batch(torch.cat([b.theta for b in found]), {n: torch.cat([b.x[n] for b in found]) for n in found[0].x})
    return whole.rows(slice(0, most))


def octaves_of(space: tuple[int, ...]) -> Int[Tensor, " wave"]:
    """The octave of each wave of a grid: 0 the mean, 1 wave number 1, 2 from 2 on, 3 from 4 on, ...

    The last that all waves of an axis are in has those beyond, too.
    """
    if not space:
        return torch.zeros(1, dtype=torch.long)
    numbers = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in space]
    size = torch.stack(torch.meshgrid(*numbers, indexing="ij")).norm(dim=0).flatten()
    octave = torch.where(size > 0, size.clamp_min(1).log2().floor() + 1, torch.zeros_like(size)).long()
    return octave.clamp_max(max(1, max(space).bit_length() - 2))


def only(
    fields: Float[Tensor, "batch frame channel *space"], weight: Float[Tensor, "frame octave"]
) -> Float[Tensor, "batch frame channel *space"]:
    """Fields whose waves are multiplied by a weight for each frame and octave."""
    space = fields.shape[3:]
    octave = octaves_of(tuple(space)).to(weight.device)
    waves = _waves(fields) * weight[:, None, octave].to(fields)
    if not space:
        return waves[..., 0]
    return torch.fft.ifftn(waves.unflatten(-1, space), dim=_axes(space), norm="ortho").real


def compared(
    drawn: Float[Tensor, "draw batch frame channel *space"], true: Float[Tensor, "batch frame channel *space"]
) -> Compared:
    """Compare draws with held-out solutions."""
    draws, middle = len(drawn), drawn.mean(0)
    off = true - middle
    known = off.square().flatten(2).mean((0, 2)) <= 1e-12 * true.square().flatten(2).mean((0, 2))  # was given
    squares = _Squares(off, known)
    error = squares(off)
    spread = [torch.zeros_like(one) for one in error]
    for one in drawn:
        for total, part in zip(spread, squares(one - middle), strict=True):
            total += (1 + 1 / draws) / max(draws - 1, 1) * part
    return _judged(spread, error, known)


def say_what_goes_together_wrongly(target: str, found: Compared) -> None:
    """Say which waves' draws are too alike or too unlike.

    Warns:
        UserWarning: If any are.
    """
    if ALIKE <= found.waves <= UNLIKE:
        return
    kind = "alike there, and are widened by what is missing" if found.waves < 1 else "unlike there"
    warnings.warn(
        f"held-out simulations show that in {found.where} draws of {target!r} spread {found.waves:.2f} times as far as "
        f"their mean is off (1 for the right law): they are too {kind}, even if they are right point by point. Train "
        "longer, or on more solutions",
        stacklevel=4,
    )


class _Squares:
    """Squares of a deviation: of frames, of their waves, and of waves along cosines in time.

    Args:
        off: Errors, over whose sizes deviations are taken along cosines.
        known: Frames that were given, which are left out there.
    """

    def __init__(self, off: Float[Tensor, "batch frame channel *space"], known: Tensor) -> None:
        self.octave, self.unknown = octaves_of(tuple(off.shape[3:])).to(off.device), ~known
        self.level = self._by_octave(_waves(off)).mean(0)[self.unknown].clamp_min(1e-30).sqrt()
        frames = len(self.level)
        at = torch.arange(frames, device=off.device)
        cosines = (math.pi / max(frames, 1) * at[:, None] * (at + 0.5)).cos()
        self.cosines = cosines / cosines.norm(dim=1, keepdim=True)
        self.beats = octaves_of((2 * frames,)).to(off.device)[:frames] if frames else at

    def __call__(self, deviation: Float[Tensor, "batch frame channel *space"]) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, frame), (batch, frame, octave) and (batch, octave in time, octave)."""
        waves = _waves(deviation)
        scaled = waves[:, self.unknown] / self.level[:, None, self.octave]
        beats = self._by_octave(torch.einsum("kt,btcw->bkcw", self.cosines.to(scaled), scaled))
        squares, times = self._by_octave(waves), len(self.beats.unique())
        return (
            squares.sum(-1),
            squares,
            beats.new_zeros(len(beats), times, beats.shape[-1]).index_add_(1, self.beats, beats),
        )

    def _by_octave(self, waves: Tensor) -> Tensor:
        squares = waves.abs().square().sum(2)
        return squares.new_zeros(*squares.shape[:2], int(self.octave.max()) + 1).index_add_(2, self.octave, squares)


def _judged(spread: Sequence[Tensor], error: Sequence[Tensor], known: Tensor) -> Compared:
    """What is no chance."""
    from scipy import stats

    small = error[1].mean(0) <= _SMALL * error[1].mean(0).sum(-1, keepdim=True)
    counts = [~known, ~small & ~known[:, None], (~small[~known]).any(0).expand(error[2].shape[1:])]
    rows, tests = len(error[0]), max(sum(int(one.sum()) for one in counts), 1)
    most, few = float(stats.t.isf(_BY_CHANCE / tests, max(rows - 1, 1))), rows < _FEWEST
    shares, odd = list[Tensor](), list[Tensor]()
    for s, e, counting in zip(spread, error, counts, strict=True):
        level = torch.where(counting, e.mean(0), torch.ones_like(e[0]))
        share = torch.where(counting, s.mean(0) / level, torch.ones_like(level))
        chance = (s / share.clamp_min(1e-30) - e).std(0) / (rows**0.5 * level)  # the standard error of its logarithm
        shares.append(share)
        odd.append((share.clamp_min(1e-30).log().abs() > most * chance) & counting & (not few))
    odd[0] |= (shares[0] < _LACKING) & ~known & (not few)
    points, waves, times = (torch.where(o, 1 - s, torch.zeros_like(s)) for s, o in zip(shares, odd, strict=True))
    missing = torch.maximum(points[:, None], waves).maximum(torch.cat([times, torch.zeros_like(waves[:1])]).amax(0))
    whole = spread[0].sum() / error[0].sum().clamp_min(1e-30)
    worst, where = max(_oddest(shares[1], odd[1], _of_frame), _oddest(shares[2], odd[2], _in_time), key=_from_one)
    return Compared(
        missing=missing.clamp(0, 1) * ~known[:, None],
        frames=_oddest(shares[0], odd[0], _of_frame)[0] if bool(odd[0].any()) else float(whole.sqrt()),
        waves=worst,
        where=where,
        spread=spread[1].flatten(1).mean(1),
        error=error[1].flatten(1).mean(1),
        few=few,
    )


def _oddest(shares: Tensor, odd: Tensor, words: Callable[..., str]) -> tuple[float, str]:
    """The root of the share that is furthest from 1, of those that are odd, and where it is."""
    size = shares.clamp_min(1e-30).log().abs() * odd
    place = [int(i) for i in torch.unravel_index(size.argmax(), size.shape)]
    if not bool(odd.any()):
        return 1.0, ""
    return float(shares[tuple(place)].clamp_min(0).sqrt()), words(*place)


def _of_frame(frame: int, octave: int = 0) -> str:
    return f"{_numbers(octave)} of frame {frame}"


def _in_time(beat: int, octave: int) -> str:
    return f"{_numbers(octave)} of {'changes over time' if beat else 'the mean over frames'}"


def _numbers(octave: int) -> str:
    """Wave numbers in an octave, in words."""
    if octave < 2:
        return f"wave {octave}"
    return f"waves {2 ** (octave - 1)} to {2**octave - 1}"


def _from_one(found: tuple[float, str]) -> float:
    return abs(math.log(max(found[0], 1e-15)))


def _waves(fields: Float[Tensor, "batch frame channel *space"]) -> Tensor:
    """Their coefficients, unitary, (batch, frame, channel, wave)."""
    space = fields.shape[3:]
    if not space:
        return fields[..., None]
    return torch.fft.fftn(fields, dim=_axes(space), norm="ortho").flatten(3)


def _axes(space: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(space), 0))
