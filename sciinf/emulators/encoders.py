r"""Networks from a field to the parameters of its code.

| encoder | input | method |
|---|---|---|
| `GridEncoder` | the grid, or values at points, spread over the grid | convolutions that halve the grid, a linear map |
| `Perceiver` | values at any points | a few learned queries attend to all points, then to each other |
| `Graph` (`graph`) | values at any points | messages between near points, and to a lattice of nodes |
| `Origin` (`origin`) | values at any points | no network: the gradient of the decoder's loss at z = 0 |

`GridEncoder` interpolates values v_i at points x_i to a place x of the grid. The result is the mean weighted by a
kernel,

    v(x) = sum_i K(x - x_i) v_i / sum_i K(x - x_i),    K(r) = exp(-|r|^2 / 2 h^2),    h = 1/2 P^(-1/D)

for P points in D directions of the unit box. The density sum_i K is one more channel; it shows where points are few.

References:
    | Convolutional Conditional Neural Processes (Gordon et al., 2020), https://arxiv.org/abs/1910.13556: the kernel and
      its density
    | Perceiver: General Perception with Iterative Attention (Jaegle et al., 2021), https://arxiv.org/abs/2103.03206
    | AROMA: Preserving Spatial Structure for Latent PDE Modeling with Local Neural Fields (Serrano et al., 2024),
      https://arxiv.org/abs/2406.02176
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive, check_whole
from sciinf.core.component import Component

_KERNEL = 5  # Points of a convolution kernel, in each direction.
_LEAST = 8  # A grid is not halved in a direction with at most so many points.
_WAVES = 16  # Number of waves that encode a point's coordinate in each direction.
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


Decode = Callable[[Tensor], Tensor]
"""From z (batch, number) to values at points (batch, channel, point)."""
Values = Float[Tensor, "batch channel *space"]
At = Float[Tensor, "point axis"] | None


class EncoderNetwork(nn.Module, ABC):
    """A network from fields to the parameters of a code."""

    @abstractmethod
    def forward(self, values: Values, at: At, decode: Decode) -> Float[Tensor, "batch number"]:
        """Code parameters of fields.

        Args:
            values: Values on the grid, or at points: (batch, channel, point).
            at: The points, in the unit box; None for the grid.
            decode: The decoder at the same points, for encoders that use it.
        """


class Encoder(Component, ABC):
    """Recipe of an encoder."""

    @abstractmethod
    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> EncoderNetwork:
        """A new network, whose initial weights are drawn from torch's global state.

        Args:
            channels: Number of channels of fields.
            space: Number of points of the grid in each direction.
            numbers: Number of outputs: means, and as many from which sds are made.
            edges: Whether fields have edges; else they are periodic.

        Raises:
            ValueError: If it does not suit fields of that layout.
        """


class GridEncoder(Encoder):
    """An encoder by convolutions on the grid.

    Args:
        width: Channels of the first convolution; the others have twice as many.

    Raises:
        ValueError: If the width is no int of at least 1; when built, if there are no directions or more than three.
    """

    def __init__(self, width: int = 32) -> None:
        check_whole("width", width, 1)
        self.width = width

    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> EncoderNetwork:
        if len(space) not in _CONVOLUTIONS:
            raise ValueError(f"GridEncoder() is for fields of one to three directions, not of {tuple(space)} points")
        return _Convolutions(self.width, (channels, numbers), tuple(space), edges)


class Perceiver(Encoder):
    """An encoder by attention to points.

    Args:
        width: Width of a query.
        queries: Number of learned queries.
        layers: Number of attention layers over the points. Each is followed by attention between the queries.
        heads: Number of heads of each attention.

    Raises:
        ValueError: If a number is no int of at least 1, or the heads do not divide the width.
    """

    def __init__(self, width: int = 64, queries: int = 8, *, layers: int = 2, heads: int = 4) -> None:
        check_positive(width=width, queries=queries, layers=layers, heads=heads)
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.width, self.queries, self.layers, self.heads = width, queries, layers, heads

    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> EncoderNetwork:
        return _Looks(self, (channels, numbers), tuple(space), edges)


def places(space: Sequence[int], *, edges: bool) -> Float[Tensor, "point axis"]:
    """Points of a grid in the unit box, the last direction running fastest: i / n, or i / (n - 1) with edges."""
    axes = [torch.arange(n) / max(n - edges, 1) for n in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(space))


class _Convolutions(EncoderNetwork):
    """The network that `GridEncoder` builds."""

    grid: Tensor

    def __init__(self, width: int, ends: tuple[int, int], space: tuple[int, ...], edges: bool) -> None:
        super().__init__()
        self.space, self.edges = space, edges
        self.register_buffer("grid", places(space, edges=edges), persistent=False)
        make, layers, last = _CONVOLUTIONS[len(space)], [], ends[0] + 1
        while not layers or max(space) > _LEAST:
            stride = tuple(2 if n > _LEAST else 1 for n in space)
            mode, after = "zeros" if edges else "circular", width * (2 if layers else 1)
            layers += [make(last, after, _KERNEL, stride, _KERNEL // 2, padding_mode=mode), nn.GELU()]
            space, last = tuple(math.ceil(n / s) for n, s in zip(space, stride, strict=True)), after
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(last * math.prod(space), ends[1])

    def forward(self, values: Values, at: At, decode: Decode) -> Float[Tensor, "batch number"]:
        del decode
        density = torch.ones_like(values[:, :1])
        if at is not None:
            values, density = self._spread(values, at)
        return self.out(self.layers(torch.cat([values, density], 1)).flatten(1))

    def _spread(self, values: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        away = self.grid[:, None] - at.to(self.grid)
        away = away if self.edges else away - away.round()
        width = 0.5 * len(at) ** (-1 / len(self.space))
        logs = -away.square().sum(-1) / (2 * width**2)
        found = torch.einsum("bcp,gp->bcg", values, logs.softmax(1).to(values)).unflatten(2, self.space)
        total = logs.exp().sum(1).to(values).reshape(1, 1, *self.space)
        return found, total.expand(len(values), -1, *self.space)


class _Looks(EncoderNetwork):
    """The network that `Perceiver` builds."""

    grid: Tensor

    def __init__(self, of: Perceiver, ends: tuple[int, int], space: tuple[int, ...], edges: bool) -> None:
        super().__init__()
        self.edges, self.heads, width = edges, of.heads, of.width
        self.register_buffer("grid", places(space, edges=edges), persistent=False)
        self.enter = nn.Sequential(
            nn.Linear(ends[0] + 2 * _WAVES * len(space), width), nn.GELU(), nn.Linear(width, width)
        )
        self.queries = nn.Parameter(torch.randn(of.queries, width))
        self.across = nn.ModuleList(_Look(width) for _ in range(of.layers))
        self.within = nn.ModuleList(_Look(width) for _ in range(of.layers))
        self.out = nn.Linear(of.queries * width, ends[1])

    def forward(self, values: Values, at: At, decode: Decode) -> Float[Tensor, "batch number"]:
        del decode
        at = self.grid if at is None else at.to(self.grid)
        waves = torch.arange(1, _WAVES + 1, device=at.device) * (math.pi if self.edges else 2 * math.pi)
        angle = (at[..., None] * waves).flatten(1)
        where = torch.cat([angle.cos(), angle.sin()], 1).to(values).expand(len(values), -1, -1)
        points = self.enter(torch.cat([values.flatten(2).mT, where], -1))
        hidden = self.queries.expand(len(values), -1, -1)
        for across, within in zip(self.across, self.within, strict=True):
            hidden = within(across(hidden, points, self.heads), None, self.heads)
        return self.out(F.layer_norm(hidden, hidden.shape[-1:]).flatten(1))


class _Look(nn.Module):
    """Attention to other tokens, or between the tokens themselves, followed by a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ask, self.show = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, width)
        self.after = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, others: Tensor | None, heads: int) -> Tensor:
        own = F.layer_norm(hidden, hidden.shape[-1:])
        others = own if others is None else F.layer_norm(others, others.shape[-1:])
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (self.ask(own), *self.show(others).chunk(2, -1))
        )
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + self.leave(found)
        return hidden + self.after(F.layer_norm(hidden, hidden.shape[-1:]))
