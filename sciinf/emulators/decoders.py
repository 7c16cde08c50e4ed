r"""Networks from the latent variables of a code to a field at any place.

`Query` makes grids of features from z, each finer than the one before, and interpolates them at the requested places:

    Z_1 = reshape(g(z)),   Z_{l+1} = Z'_l + c_l(Z'_l),   u(x) = f([Z_1(x), .., Z_L(x)]).

g and f are perceptrons, Z'_l is the grid interpolated to twice the points, c_l are convolutions, and Z(x) is linear
interpolation. So a field can be evaluated on any grid. Grids are made finer until one has as many points in a direction
as the field has in its longest. Convolutions of a finer grid would take most of the time. Features are linear between
points of Z_L, but f may be as steep as needed: a front lies where a feature passes 0, which need not be at a point.

References:
    | DDMI: Domain-Agnostic Latent Diffusion Models for Synthesizing High-Quality Implicit Neural Representations (Park
      et al., 2024), https://arxiv.org/abs/2401.12517
    | Convolutional Occupancy Networks (Peng et al., 2020), https://arxiv.org/abs/2003.04618
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive, check_whole
from sciinf.core.component import Component
from sciinf.simulators.dynamics.grid import BoxGrid, interpolated

Numbers = Float[Tensor, "batch number"]
_KERNEL = 3
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class DecoderNetwork(nn.Module, ABC):
    """A network from latent variables to fields."""

    @abstractmethod
    def forward(self, z: Numbers, at: Float[Tensor, "point axis"]) -> Float[Tensor, "batch channel point"]:
        """Fields at points of the unit box."""


class Decoder(Component, ABC):
    """Recipe of a decoder."""

    @abstractmethod
    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> DecoderNetwork:
        """A new network, whose initial weights are drawn from torch's global state.

        Arguments are those of `Encoder.build`.

        Raises:
            ValueError: If it does not suit fields of that layout.
        """


class Query(Decoder):
    """A decoder from grids of features, which can be evaluated at any point.

    Args:
        levels: L, the number of grids; fewer if a coarser grid already has as many points as the field.
        coarsest: Points of the first grid, in each direction.
        features: Number of features at a point.
        width: Width of the perceptron f, and half the width of g.

    Raises:
        ValueError: If a number is no int of at least 1 (`coarsest`: 2); when built, if there are no directions or more
            than three.
    """

    def __init__(self, levels: int = 4, *, coarsest: int = 8, features: int = 16, width: int = 64) -> None:
        check_positive(levels=levels, features=features, width=width)
        check_whole("coarsest", coarsest, 2)
        self.levels, self.coarsest, self.features, self.width = levels, coarsest, features, width

    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> DecoderNetwork:
        if len(space) not in _CONVOLUTIONS:
            raise ValueError(f"Query() is for fields of one to three directions, not of {tuple(space)} points")
        return _Queried(self, (numbers, channels), tuple(space), edges)


class _Queried(DecoderNetwork):
    """The network that `Query` builds."""

    def __init__(self, of: Query, ends: tuple[int, int], space: tuple[int, ...], edges: bool) -> None:
        super().__init__()
        axes = len(space)
        make, mode, self.edges = _CONVOLUTIONS[axes], "zeros" if edges else "circular", edges
        points = [of.coarsest]
        while len(points) < of.levels and points[-1] < max(space):
            points.append(2 * points[-1])
        self.grids = [BoxGrid((n,) * axes, (1.0,) * axes, periodic=not edges) for n in points]
        self.features, first, inner = of.features, of.features * math.prod(self.grids[0].shape), 2 * of.width
        self.enter = nn.Sequential(
            nn.Linear(ends[0], inner), nn.GELU(), nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, first)
        )
        self.finer = nn.ModuleList(
            nn.Sequential(
                make(of.features, of.features, _KERNEL, padding=_KERNEL // 2, padding_mode=mode),
                nn.GELU(),
                make(of.features, of.features, _KERNEL, padding=_KERNEL // 2, padding_mode=mode),
            )
            for _ in points[1:]
        )
        self.leave = nn.Sequential(
            nn.Linear(len(points) * of.features, of.width),
            nn.GELU(),
            nn.Linear(of.width, of.width),
            nn.GELU(),
            nn.Linear(of.width, ends[1]),
        )

    def forward(self, z: Numbers, at: Float[Tensor, "point axis"]) -> Float[Tensor, "batch channel point"]:
        grid, found = self.enter(z).unflatten(1, (self.features, *self.grids[0].shape)), []
        for k, here in enumerate(self.grids):
            if k:
                finer = _twice(grid, self.edges)
                grid = finer + self.finer[k - 1](finer)
            found.append(_between(here, grid, at))
        return self.leave(torch.cat(found, 1).mT).mT


def _between(grid: BoxGrid, fields: Tensor, at: Tensor) -> Tensor:
    """Values of all rows' fields, interpolated at the same points."""
    flat = fields.reshape(1, -1, *grid.shape)
    return interpolated(grid, flat, at[None]).unflatten(1, fields.shape[:2])[0]


def _twice(grid: Tensor, edges: bool) -> Tensor:
    """Fields on twice as many points in each direction, by linear interpolation.

    A ring is closed first, by appending its first point.
    """
    space = grid.shape[2:]
    if edges:
        return F.interpolate(grid, [2 * n for n in space], mode=_LINEAR[len(space)], align_corners=True)
    closed = F.pad(grid, (0, 1) * len(space), mode="circular")
    found = F.interpolate(closed, [2 * n + 1 for n in space], mode=_LINEAR[len(space)], align_corners=True)
    return found[(..., *[slice(0, -1)] * len(space))]
