r"""A step whose spectral layers can only weaken waves: for `Stepwise`, over many steps.

A layer is a residual one whose spectral part can only weaken and turn waves,

    h <- h + S(M(h)),     (S v)(k) = sigmoid(a_{c,k}) e^{i phi_{c,k}} vhat(k)  for |k| < m,  0 beyond,

channel by channel, with a matrix network M at every point between; all matrices have their largest singular value
divided out (spectral normalisation). Waves are kept within a circle, not a square, so that no direction is preferred,
and all that the grid resolves can be: what sets off a plain operator are the highest waves, which aliasing feeds and
its truncated layers never see.

References:
    | Towards Stability of Autoregressive Neural Operators (McCabe et al., 2023), https://arxiv.org/abs/2306.10619
    | Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sciinf.core.checks import check_whole
from sciinf.nets.fields import FieldArchitecture, FieldNetwork
from sciinf.nets.spectral import Pointwise, places, restored, transformed


class Weakening(nn.Module):
    """S.

    Args:
        channels: Of fields, in and out.
        modes: m, of every direction.
    """

    circle: Tensor

    def __init__(self, channels: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(modes)
        waves = [torch.arange(1 - m, m) / m for m in self.modes[:-1]] + [torch.arange(self.modes[-1]) / self.modes[-1]]
        squared = sum(k.square() for k in torch.meshgrid(*waves, indexing="ij"))
        self.register_buffer("circle", torch.as_tensor(squared) < 1, persistent=False)
        shape = (channels, *self.circle.shape)
        self.size = nn.Parameter(torch.randn(shape) * 0.5)
        self.turn = nn.Parameter(torch.randn(shape) * 0.5)

    def multiplier(self) -> Float[Tensor, "channel ..."]:
        """Complex, no larger than 1."""
        return torch.polar(torch.sigmoid(self.size) * self.circle, self.turn)

    def forward(self, fields: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        space = fields.shape[2:]
        for n, m in zip(space, self.modes, strict=True):
            if n < 2 * m:
                raise ValueError(f"{n} grid points do not have the {m} waves that are kept; build it with {n // 2}")
        return restored(transformed(fields, self.modes) * self.multiplier(), self.modes, space)


class StableLayer(nn.Module):
    """h + S(M(h))."""

    def __init__(self, width: int, modes: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.enter = spectral_norm(Pointwise(width, 2 * width))
        self.leave = spectral_norm(Pointwise(2 * width, width))
        self.film = nn.Linear(parameters, 4 * width)
        self.weaken = Weakening(width, modes)

    def forward(self, hidden: Tensor, theta: Tensor) -> Tensor:
        scale, shift = self.film(theta).unflatten(-1, (2, -1, *[1] * (hidden.ndim - 2))).unbind(1)
        inner = torch.addcmul(shift, 1 + torch.tanh(scale), self.enter(hidden))
        return hidden + self.weaken(self.leave(F.gelu(inner)))


class StableNet(FieldNetwork):
    """What `Stable` builds."""

    def __init__(self, told: Stable, channels: tuple[int, int], modes: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.coordinates, seen = told.coordinates, channels[0] + 2 * len(modes) * told.coordinates
        self.enter = spectral_norm(Pointwise(seen, told.width))
        self.layers = nn.ModuleList(StableLayer(told.width, modes, parameters) for _ in range(told.layers))
        self.leave = spectral_norm(Pointwise(told.width, channels[1]))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, fields: Tensor, theta: Tensor) -> Tensor:
        if self.coordinates:  # on a ring, which has no beginning
            angle = 2 * math.pi * places(fields.shape[2:], fields) * _ends(fields)
            around = torch.cat([angle.sin(), angle.cos()], 1)
            fields = torch.cat([fields, around.expand(len(fields), -1, *fields.shape[2:])], 1)
        hidden = self.enter(fields)
        for layer in self.layers:
            hidden = layer(hidden, theta)
        return self.gain * self.leave(hidden)


class Stable(FieldArchitecture):
    """A bounded neural operator for steps on a ring or torus.

    Args:
        width: Channels of the layers.
        modes: m, for every direction or one for each: half of the grid's points for all of its waves.
        layers: How many.
        coordinates: Whether the network is told where a point lies: where the equation is not the same everywhere.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self, width: int = 32, modes: int | Sequence[int] = 32, *, layers: int = 4, coordinates: bool = False
    ) -> None:
        for name, value in (("width", width), ("layers", layers)):
            check_whole(name, value, 1)
        for value in (modes,) if isinstance(modes, int) else modes:
            check_whole("modes", value, 1)
        self.width, self.modes, self.layers, self.coordinates = width, modes, layers, coordinates

    def build(self, channels: tuple[int, int], directions: int, parameters: int) -> StableNet:
        modes = (self.modes,) * directions if isinstance(self.modes, int) else tuple(self.modes)
        if len(modes) != directions:
            raise ValueError(f"modes {modes} are of {len(modes)} directions, the fields have {directions}")
        return StableNet(self, channels, modes, parameters)


def _ends(fields: Tensor) -> Tensor:
    """What makes the last point of each direction the one before the first."""
    part = torch.tensor([(n - 1) / n for n in fields.shape[2:]], dtype=fields.dtype, device=fields.device)
    return part.reshape(1, -1, *[1] * (fields.ndim - 2))
