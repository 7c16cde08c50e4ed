r"""Stations as a code, for fields that are known at some points alone.

A field of P stations, u of shape (channel, P), becomes P tokens t_i = u(x_i), one for each station, with its place x_i.
Nothing is lost, so a distribution of tokens is a distribution of stations, with the same density. It is a joint
distribution of u(x_1), ..., u(x_P), like that of a stochastic process at finitely many points. The network infers from
the places which stations lie close to each other.

Stations lie anywhere, so no two are alike. Distributions use the covariance of all numbers together
(`emulators.tokens.innovations`), so there may be at most 2,048 numbers. The box has edges: stations at 0.01 and at 0.99
are far apart.

References:
    | Neural Diffusion Processes (Dutordoir et al., 2022), https://arxiv.org/abs/2206.03992
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import called_with
from sciinf.emulators.tokens.code import Code, FieldTokens, Level, Passes, check_together


class Points(Code):
    """A code whose tokens are stations.

    Fields are observables of shape (time, channel, station), and (channel, station) where they are given.

    Args:
        at: Places of the stations in the unit box, a sequence of coordinates for each station, in the order of the
            field.

    Raises:
        ValueError: If there are no stations, places differ in their number of coordinates, a place lies outside the
            unit box, or two stations lie at the same place. When built, if fields have another number of stations, or
            more than 2,048 numbers.

    Examples:
        >>> code = Points([(0.1, 0.2), (0.5, 0.5), (0.9, 0.3)]).build(2, (3,))
        >>> code.encode(torch.ones(10, 2, 3)).shape
        torch.Size([10, 3, 2])
    """

    def __init__(self, at: Sequence[Sequence[float]]) -> None:
        each = [list(map(float, place)) for place in at]
        if not each or not each[0]:
            raise ValueError(f"there are no stations: Points([(0.1, 0.2), (0.5, 0.5)]) has two, got {at!r}")
        for place in each:
            if len(place) != len(each[0]):
                raise ValueError(f"the first station has {len(each[0])} coordinates, and one has {len(place)}: {place}")
            if not all(0 <= x <= 1 for x in place):
                raise ValueError(f"a station lies at {place}, outside the unit box: divide by the lengths of your box")
        if len({tuple(place) for place in each}) < len(each):
            raise ValueError("two stations lie at the same place: give each once, with more channels")
        self.at = each
        called_with(self, at=each)

    def build(self, channels: int, space: Sequence[int]) -> FieldTokens:
        if len(space) != 1 or space[0] != len(self.at):
            raise ValueError(
                f"Points() has {len(self.at)} stations, and fields have the layout {(channels, *space)}: "
                f"({channels}, {len(self.at)}) is needed, (channel, station)"
            )
        check_together(channels * len(self.at), "Points()", "take fewer stations, or fields on a grid and Patches()")
        return _Stations(channels, len(self.at), torch.tensor(self.at))


@final
class _Stations(FieldTokens):
    """The code that `Points` builds."""

    on_grid = False

    def __init__(self, channels: int, count: int, at: Float[Tensor, "station axis"]) -> None:
        super().__init__(channels, (count,), at, channels)

    def look(self, fields: Passes, level: Level | None = None) -> None:
        del fields, level  # Stations need no training.

    def encode(self, fields: Float[Tensor, "*batch channel *space"]) -> Float[Tensor, "*batch token width"]:
        return fields.mT

    def decode(self, tokens: Float[Tensor, "*batch token width"]) -> Float[Tensor, "*batch channel *space"]:
        return tokens.mT
