r"""Haar wavelets as a code: means of cells of the grid from coarse to fine, without training.

Along each direction two neighbours a, b become their scaled sum and difference, which are orthonormal,

    s = (a + b) / sqrt 2,    d = (a - b) / sqrt 2.

In D directions this gives 2^D bands with half as many points in each direction: one band of means, which is halved
again, and 2^D - 1 bands of differences. After L levels the scales are

| scale | bands | points in each direction |
|---|---|---|
| 0 | means | n / 2^L |
| l = 1, ..., L | 2^D - 1 of differences | n / 2^(L - l + 1) |

and a token is a piece of one band, of the same size at all scales. The map Q from a field to all bands is orthogonal,
|det Q| = 1. So a distribution of tokens is a distribution of fields, with the same density. If scales above k are left
out, the decoded field is the mean of the field over each cell of 2^(L - k) points in each direction.

If a field is translated by 2^L times the size of a piece, in points, its tokens are translated by one place in every
band. Tokens of several scales are of several kinds, so they know their places, with the band as one more direction.
Distributions use the covariance of all numbers together (`emulators.tokens.innovations`), so there may be at most 2,048
numbers. Means alone (`kept=0`) are pieces of one kind; their number is not limited.

References:
    | A Theory for Multiresolution Signal Decomposition: The Wavelet Representation (Mallat, 1989),
      https://doi.org/10.1109/34.192463
    | Zur Theorie der orthogonalen Funktionensysteme (Haar, 1910), https://doi.org/10.1007/BF01456326
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_positive, check_whole
from sciinf.emulators.tokens.code import Code, FieldTokens, Level, Passes, Patches, check_together

_DIRECTIONS = 3


class Haar(Code):
    """A code by wavelets of a grid in one to three directions.

    Args:
        levels: Number of times that the grid is halved.
        kept: Number of scales of differences that are kept, the coarsest first; all if None, so that nothing is lost.
        size: Points of a token in its band, in each direction.

    Raises:
        ValueError: If levels or size is no int of at least 1, or kept is not an int from 0 to levels. When built, if
            there are no directions or more than three, size times 2^levels does not divide the points of a direction,
            or tokens of several scales have more than 2,048 numbers.

    Examples:
        >>> code = Haar(2).build(1, (64,))
        >>> tokens = code.encode(torch.ones(10, 1, 64))
        >>> tokens.shape, code.scales
        (torch.Size([10, 16, 4]), (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2))
    """

    def __init__(self, levels: int = 2, *, kept: int | None = None, size: int = 4) -> None:
        check_positive(levels=levels, size=size)
        if kept is not None:
            check_whole("kept", kept, 0)
            if kept > levels:
                raise ValueError(f"Haar({levels}) has {levels} scales of differences, and cannot keep {kept}")
        self.levels, self.kept, self.size = levels, levels if kept is None else kept, size

    def build(self, channels: int, space: Sequence[int]) -> FieldTokens:
        if not 1 <= len(space) <= _DIRECTIONS:
            raise ValueError(f"Haar() is for grids of one to three directions, not of {tuple(space)} points")
        cell = self.size * 2**self.levels
        if any(n % cell for n in space):
            raise ValueError(
                f"cells of {cell} points, {self.size} times 2^{self.levels}, do not divide a grid of {tuple(space)} "
                "points: Haar(levels, size=...)"
            )
        if self.kept:
            numbers = channels * math.prod(n >> (self.levels - self.kept) for n in space)
            check_together(numbers, f"Haar({self.levels}, kept={self.kept})", "keep fewer scales, or take Patches()")
        return _Wavelets(channels, tuple(space), self)


@final
class _Wavelets(FieldTokens):
    """The code that `Haar` builds."""

    def __init__(self, channels: int, space: tuple[int, ...], of: Haar) -> None:
        cuts, places, scales = list[FieldTokens](), list[Tensor](), list[int]()
        bands = 2 ** len(space) - 1
        for scale in range(of.kept + 1):
            points = [n >> min(of.levels, of.levels - scale + 1) for n in space]
            cuts.append(Patches(of.size).build(channels, points))
            for band in range(bands if scale else 1):
                index = 1 + (scale - 1) * bands + band if scale else 0
                at = torch.full((len(cuts[-1].places), 1), (index + 0.5) / (1 + of.kept * bands))
                places.append(torch.cat([cuts[-1].places, at], 1))
                scales += [scale] * len(at)
        means = cuts[0]
        if of.kept:
            super().__init__(channels, space, torch.cat(places), means.width, scales=tuple(scales))
        else:
            super().__init__(channels, space, means.places, means.width, means.counts, scales=tuple(scales))
        self.levels, self.kept, self.cuts = of.levels, of.kept, tuple(cuts)  # The cuts have no weights to register.

    def look(self, fields: Passes, level: Level | None = None) -> None:
        del fields, level  # Wavelets need no training.

    def encode(self, fields: Float[Tensor, "*batch channel *space"]) -> Float[Tensor, "*batch token width"]:
        found = list[Tensor]()
        for scale in range(self.levels, 0, -1):
            fields, differences = _halved(fields, len(self.space))
            if scale <= self.kept:
                found.append(self._cut(scale, differences))
        found.append(self._cut(0, fields[None]))
        return torch.cat(found[::-1], -2)

    def decode(self, tokens: Float[Tensor, "*batch token width"]) -> Float[Tensor, "*batch channel *space"]:
        bands = 2 ** len(self.space) - 1
        counts = [len(cut.places) * (bands if scale else 1) for scale, cut in enumerate(self.cuts)]
        parts = tokens.split(counts, -2)
        fields = self._joined(0, parts[0], 1)[0]
        for scale in range(1, self.levels + 1):
            if scale <= self.kept:
                differences = self._joined(scale, parts[scale], bands)
            else:
                differences = fields.new_zeros(bands, *fields.shape)
            fields = _doubled(fields, differences, len(self.space))
        return fields

    def _cut(self, scale: int, bands: Tensor) -> Tensor:
        """Tokens of one scale, from its bands (band, *batch, channel, *space)."""
        return self.cuts[scale].encode(bands).movedim(0, -3).flatten(-3, -2)

    def _joined(self, scale: int, tokens: Tensor, bands: int) -> Tensor:
        """Bands of one scale, from its tokens."""
        return self.cuts[scale].decode(tokens.unflatten(-2, (bands, -1)).movedim(-3, 0))


def _halved(fields: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Means of one level, and its bands of differences (band, ...)."""
    bands = fields[None]
    for axis in range(-axes, 0):
        one, other = bands.unflatten(axis, (-1, 2)).unbind(axis)
        bands = torch.cat([one + other, one - other]) / math.sqrt(2)
    return bands[0], bands[1:]


def _doubled(means: Tensor, differences: Tensor, axes: int) -> Tensor:
    """Fields from their means and differences; the inverse of `_halved`."""
    bands = torch.cat([means[None], differences])
    for axis in range(-1, -axes - 1, -1):
        mean, difference = bands.chunk(2)
        both = torch.stack([mean + difference, mean - difference], axis)
        bands = both.flatten(axis - 1, axis) / math.sqrt(2)
    return bands[0]
