r"""A network for `Stepwise` whose rollouts stay bounded, however many steps are taken.

Let h be frames in sds of the flow, l(h) = h min(1, L / rms(h)), and q the sd of a step in the same units, q <= 1
(`Stepwise` ensures this). A step is, channel by channel of the frame,

    h <- (1 - q) h + q (W l(h) + B(f(l(h)))),     (W h)(k) = sigmoid(a_k) e^{i p_k} hhat(k)  for |k| < m,  0 beyond,
    B(v) = v min(1, c / rms(v)).

f is a network, and c = 2. W weakens every wave, and B limits the addition. So the root mean square of a channel never
exceeds L + c or its initial value, whichever is larger. This holds for any weights and inputs of f. The layers of f
also have a spectral part S that can only weaken and turn waves, and a matrix network M inside:

    h <- h + S(M(h)),     (S v)(k) = sigmoid(a_{c,k}) e^{i p_{c,k}} vhat(k)  for |k| < m,  0 beyond.

At first the S of different channels blur fields and translate them by some cells. From these the matrices can form
derivatives. The kept waves lie within a circle (an ellipse, if m differs by direction), not a square, so that no
direction is preferred. All waves that the grid resolves can be kept. The highest waves make a plain operator unstable:
aliasing feeds them, and its truncated layers never see them.

McCabe et al. also use the circle and the bounded multipliers, and divide every matrix by its largest singular value.
With the widths that a few CPU minutes allow, that network only learnt to leave frames unchanged. With the bounds of W
and B, this division is not needed.

References:
    | Towards Stability of Autoregressive Neural Operators (McCabe et al., 2023), https://arxiv.org/abs/2306.10619
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive
from sciinf.networks.fields import FieldArchitecture, FieldNetwork
from sciinf.networks.spectral import Pointwise, around, check_modes, each_direction, restored, transformed

_CHANGE = 2.0  # The bound c.
_PACE = 5.0  # Relative learning rate of a wave's parameters; each affects little of the loss.
# Range of the sds of the initial Gaussian blurs. The unit is a cell of a grid with 2 m points in a direction
# of m kept waves.
_BLURRED = (0.3, 6.0)
_MOVED = 1.5  # Sd of the initial translations, in the same cells.


class Weakening(nn.Module):
    """The spectral map S (or W), which can only weaken and turn waves.

    Args:
        channels: Number of channels of fields, in and out.
        modes: Number m of kept waves, for every direction.
        still: Whether it initially only damps the highest waves. If False, it initially blurs and translates every
            channel.
    """

    circle: Tensor

    def __init__(self, channels: int, modes: Sequence[int], *, still: bool = False) -> None:
        super().__init__()
        self.modes = tuple(modes)
        ends = [(1 - m if axis < len(self.modes) - 1 else 0, m) for axis, m in enumerate(self.modes)]
        waves = [torch.arange(first, m, dtype=torch.float64) / m for first, m in ends]
        k = torch.stack(torch.meshgrid(*waves, indexing="ij"))
        squared = k.square().sum(0)
        self.register_buffer("circle", squared < 1 - 1e-12, persistent=False)
        ones = [1] * len(self.modes)
        blur = torch.empty(channels, *ones).uniform_(*map(math.log, _BLURRED)).exp()
        size = (-0.5 * (math.pi * blur).square() * squared).exp().clamp(0.02, 0.9)
        moved = _MOVED * torch.randn(channels, len(self.modes))
        turn = math.pi * (moved.reshape(channels, -1, *ones) * k).sum(1)
        held = (3.0 - 6.0 * squared).expand_as(size)
        self.size = nn.Parameter((held if still else torch.logit(size)).float() / _PACE)
        self.turn = nn.Parameter((torch.zeros_like(turn) if still else turn).float() / _PACE)

    def multiplier(self) -> Float[Tensor, "channel ..."]:
        """Complex multipliers of the waves, with absolute values of at most 1."""
        return torch.polar(torch.sigmoid(_PACE * self.size) * self.circle, _PACE * self.turn)

    def forward(self, fields: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        space = fields.shape[2:]
        check_grid(space, self.modes)
        return restored(transformed(fields, self.modes) * self.multiplier(), self.modes, space)


def waves_of(points: int) -> int:
    """Number of waves that a direction of the grid resolves, including the constant."""
    return (points + 1) // 2


def check_grid(space: Sequence[int], modes: Sequence[int]) -> None:
    """Refuse a grid that does not resolve all of these waves.

    Raises:
        ValueError: If the grid does not resolve them.
    """
    for n, m in zip(space, modes, strict=True):
        if m > waves_of(n):
            raise ValueError(f"{n} grid points have no {m} waves to keep: build Stable with modes={waves_of(n)}")


class StableLayer(nn.Module):
    """A layer h + S(M(h)) of the network f."""

    def __init__(self, width: int, modes: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.enter, self.leave = Pointwise(width, 2 * width), Pointwise(2 * width, width)
        self.film = nn.Linear(parameters, 4 * width)
        self.weaken = Weakening(width, modes)

    def forward(self, hidden: Tensor, theta: Tensor) -> Tensor:
        scale, shift = self.film(theta).unflatten(-1, (2, -1, *[1] * (hidden.ndim - 2))).unbind(1)
        inner = torch.addcmul(shift, 1 + torch.tanh(scale), self.enter(hidden))
        return hidden + self.weaken(self.leave(F.gelu(inner)))


class StableNet(FieldNetwork):
    """The network W l(h) - h + B(f(l(h))), which gives the change of a frame in sds of a step; `Stable` builds it."""

    def __init__(self, told: Stable, channels: tuple[int, int], modes: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.coordinates, self.limit, self.target = told.coordinates, told.limit, channels[1]
        self.enter = Pointwise(channels[0] + 2 * len(modes) * told.coordinates, told.width)
        self.layers = nn.ModuleList(StableLayer(told.width, modes, parameters) for _ in range(told.layers))
        self.project, self.leave = Pointwise(told.width, 2 * told.width), Pointwise(2 * told.width, channels[1])
        self.hold = Weakening(channels[1], modes, still=True)

    def forward(self, fields: Tensor, theta: Tensor) -> Tensor:
        frame = fields[:, : self.target]
        held = limited(frame, self.limit)
        fields = torch.cat([held, fields[:, self.target :]], 1)
        if self.coordinates:
            place = around(fields.shape[2:], fields)
            fields = torch.cat([fields, place.expand(len(fields), *place.shape)], 1)
        hidden = self.enter(fields)
        for layer in self.layers:
            hidden = layer(hidden, theta)
        return self.hold(held) - frame + limited(self.leave(F.gelu(self.project(hidden))), _CHANGE)


def limited(fields: Float[Tensor, "batch channel *space"], most: float) -> Float[Tensor, "batch channel *space"]:
    """Fields scaled down, channel by channel, to a root mean square of at most `most`; this is l and B."""
    level = fields.flatten(2).square().mean(2).add(1e-12).sqrt()
    return fields * (most / level).clamp(max=1.0).reshape(*level.shape, *[1] * (fields.ndim - 2))


class Stable(FieldArchitecture):
    """A bounded neural operator for steps on a ring or torus.

    A bounded field can still be rough. Where a flow crosses several cells in a step, short waves grow to many times
    their true energy in long rollouts. Training with noise, `Stepwise(noise=1)`, prevents this. Shorter steps help too.

    Args:
        width: Channels of the layers.
        modes: Number m of kept waves, for every direction or one for each; all waves of the grid if None.
        layers: Number of layers.
        coordinates: Whether the network knows the place of a point. This is for equations that are not the same
            everywhere.
        limit: L, in sds of all frames from their mean; above the root mean square of any true frame. With a smaller
            limit, a long rollout stays closer to the true flow. A rollout never exceeds L + 2.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        width: int = 32,
        modes: int | Sequence[int] | None = None,
        *,
        layers: int = 4,
        coordinates: bool = False,
        limit: float = 3.0,
    ) -> None:
        check_positive(width=width, layers=layers)
        if modes is not None:
            check_modes(modes)
        if not 0 < limit < math.inf:
            raise ValueError(f"limit is a positive number of sds, got {limit}")
        self.width, self.modes, self.layers, self.coordinates, self.limit = width, modes, layers, coordinates, limit

    def build(self, channels: tuple[int, int], space: Sequence[int], parameters: int) -> StableNet:
        if channels[0] < channels[1]:
            raise ValueError(f"a step maps frames to frames, and {channels[0]} channels are fewer than {channels[1]}")
        modes = each_direction([waves_of(n) for n in space] if self.modes is None else self.modes, len(space))
        check_grid(space, modes)
        return StableNet(self, channels, modes, parameters)
