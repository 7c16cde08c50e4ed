r"""A perceptron that computes derivatives of its output with respect to its inputs, forwards with the values.

Each layer has z = W h + b and h = tanh z. The first and second derivatives ' and '' along a direction x_k
follow

    z' = W h',   z'' = W h'',   h' = (1 - h^2) z',   h'' = (1 - h^2) z'' - 2 h (1 - h^2) z'^2.

These formulas are exact, and take 1 + 2 D passes for D directions. The derivatives need no backward pass. A
loss of derivatives thus has gradients like any other loss, and members of an ensemble can be trained together
(`vmap`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Jet:
    """The values of a field at points, with its first and second derivatives but no mixed ones.

    Args:
        value: Values, (row, channel).
        slope: First derivatives along each direction, (row, channel, direction).
        bend: Second derivatives d^2 / dx_k^2 along each direction, (row, channel, direction).
    """

    value: Float[Tensor, "row channel"]
    slope: Float[Tensor, "row channel direction"]
    bend: Float[Tensor, "row channel direction"]


@final
class JetNetwork(nn.Module):
    """A perceptron whose inputs are a point of a box and other numbers, and whose output is a field.

    Args:
        lengths: Length of the box [0, length] in each direction.
        periodic: Whether the field is periodic, in each direction. A periodic coordinate enters as its sine
            and cosine, so that the field is exactly periodic.
        others: Number of inputs beside the point.
        channels: Number of channels of the field.
        width: Width of each hidden layer.
        layers: Number of hidden layers.
    """

    layers: Any  # Type checkers do not know that each module of this ModuleList is an nn.Linear.

    def __init__(
        self,
        lengths: Sequence[float],
        periodic: Sequence[bool],
        others: int,
        channels: int,
        width: int = 40,
        layers: int = 4,
    ) -> None:
        super().__init__()
        self.lengths, self.periodic = tuple(lengths), tuple(periodic)
        sizes = [sum(2 if ring else 1 for ring in periodic) + others, *[width] * layers, channels]
        self.layers = nn.ModuleList(nn.Linear(one, other) for one, other in itertools.pairwise(sizes))
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, at: Float[Tensor, "row direction"], others: Float[Tensor, "row other"]) -> Tensor:
        """The values of the field without derivatives, (row, channel)."""
        value = torch.cat([self._entered(at)[0], others], -1)
        for layer in self.layers[:-1]:
            value = layer(value).tanh()
        return self.layers[-1](value)

    def jet(self, at: Float[Tensor, "row direction"], others: Float[Tensor, "row other"]) -> Jet:
        """The values of the field, and its derivatives along each direction of the box."""
        value, slope, bend = self._entered(at)
        still = others.new_zeros(at.shape[-1], *others.shape)
        value, slope, bend = torch.cat([value, others], -1), torch.cat([slope, still], -1), torch.cat([bend, still], -1)
        for layer in self.layers[:-1]:
            value, slope, bend = layer(value).tanh(), slope @ layer.weight.mT, bend @ layer.weight.mT
            first = 1 - value.square()
            bend = first * bend - 2 * value * first * slope.square()
            slope = first * slope
        last = self.layers[-1].weight.mT
        return Jet(self.layers[-1](value), (slope @ last).movedim(0, -1), (bend @ last).movedim(0, -1))

    def _entered(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features of points that enter the first layer, with their first and second derivatives.

        Returns:
            Features (row, feature), first derivatives (direction, row, feature), and second derivatives
            (direction, row, feature).
        """
        values, slopes, bends = list[Tensor](), list[Tensor](), list[Tensor]()
        for k, (length, ring) in enumerate(zip(self.lengths, self.periodic, strict=True)):
            here = torch.eye(at.shape[-1], dtype=at.dtype, device=at.device)[k][:, None, None]
            speed = (2 * math.pi if ring else 2.0) / length
            x = speed * at[:, k : k + 1]
            value = torch.cat([x.sin(), x.cos()], -1) if ring else x - 1
            slope = speed * (torch.cat([x.cos(), -x.sin()], -1) if ring else torch.ones_like(x))
            bend = -(speed**2) * value if ring else torch.zeros_like(x)
            values.append(value)
            slopes.append(here * slope)
            bends.append(here * bend)
        return torch.cat(values, -1), torch.cat(slopes, -1), torch.cat(bends, -1)
