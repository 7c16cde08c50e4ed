r"""The network of `nets.modulated` with layers that preserve magnitudes: activations keep rms 1 as it learns.

Each row of each weight matrix is used at norm 1, so that inputs of rms 1 that do not agree with each other give outputs
of rms 1. There are no biases; a constant 1 is among the inputs. What adds or bends is divided by what it does to the
rms:

    sum(a, b; t) = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2),      bend(a) = silu(a) / 0.596,

for independent a, b of rms 1. What a block begins with is set to rms 1 in each row, so that what is not independent
does not add up. Numbers g that start at 0 set how much is said at all: of the modulation, and in the end.

**Forced norm.** A step of the optimiser is at right angles to a weight whose norm does not matter, so the norm would
grow and steps count for less and less. So before each pass in training the weights themselves are set to norm sqrt(n),
n their number in a row. Where several networks are trained at once, they are not: there only what is used has norm 1.

References:
    | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2024),
      https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.nets.modulated import FREQUENCIES

_SILU = 0.596  # rms of silu of N(0, 1)
_ADDED = 0.3  # t: what a block adds
_EPS = 1e-4


def bent(value: Tensor) -> Tensor:
    """silu, at rms 1."""
    return F.silu(value) / _SILU


def added(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Both, the second by a share, at rms 1."""
    return first.lerp(second, share) / math.hypot(1 - share, share)


class Unit(nn.Module):
    """A linear layer whose rows have norm 1, without a bias.

    Args:
        inputs: Width of what it takes.
        outputs: Width of what it gives.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, value: Float[Tensor, "*rows input"]) -> Float[Tensor, "*rows output"]:
        if self.training and isinstance(self.weight, nn.Parameter):  # no mapped tensor of several networks
            with torch.no_grad():
                self.weight.copy_(_normal(self.weight))
        return F.linear(value, _normal(self.weight) / self.weight.shape[1] ** 0.5)


class Preserving(nn.Module):
    """The network, for the same arguments as `nets.modulated.Modulated`.

    Args:
        inputs: Width of v.
        dim: D.
        features: Width of c.
        hidden: Width of h.
        blocks: K.
    """

    frequencies: Tensor
    factor: Tensor

    def __init__(self, inputs: int, dim: int, features: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.features = features
        self.given, self.again = Unit(features + 1, hidden), Unit(hidden, hidden)
        self.clock = Unit(2 * FREQUENCIES + 1, hidden)
        self.enter = Unit(inputs + 1, hidden)
        self.first = nn.ModuleList(Unit(hidden, hidden) for _ in range(blocks))
        self.second = nn.ModuleList(Unit(hidden, hidden) for _ in range(blocks))
        self.modulation = nn.ModuleList(Unit(hidden, hidden) for _ in range(blocks))
        self.gains = nn.Parameter(torch.zeros(blocks))
        self.leave, self.gain = Unit(hidden, dim), nn.Parameter(torch.zeros(()))
        self.register_buffer("frequencies", 0.25 * 2.0 ** torch.arange(FREQUENCIES), persistent=False)
        self.register_buffer("factor", torch.ones(()))

    def prepare(self, context: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch hidden"]:
        """What is computed once for an observation."""
        return self.again(bent(self.given(_with_one(context))))

    def forward(
        self,
        value: Float[Tensor, "*rows input"],
        log_level: Float[Tensor, "*level"],
        prepared: Float[Tensor, "batch hidden"],
    ) -> Float[Tensor, "*rows dim"]:
        """F; see `Modulated.forward`."""
        angle = log_level[..., None] * self.frequencies
        clock = self.clock(_with_one(2**0.5 * torch.cat([angle.cos(), angle.sin()], dim=-1)))
        condition = bent(added(prepared, clock, 0.5))
        hidden = self.enter(_with_one(value))
        for first, second, modulation, gain in zip(self.first, self.second, self.modulation, self.gains, strict=True):
            hidden = hidden / (_EPS + hidden.square().mean(-1, keepdim=True).sqrt())
            inner = bent(first(hidden) * (1 + gain * modulation(condition)))
            hidden = added(hidden, second(inner), _ADDED)
        return self.factor * self.gain * self.leave(hidden)

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Make F that many times itself."""
        self.factor.mul_(factor)


def _normal(weight: Tensor) -> Tensor:
    """Rows of rms 1."""
    return weight / (_EPS + weight.square().mean(1, keepdim=True).sqrt())


def _with_one(value: Tensor) -> Tensor:
    return torch.cat([value, torch.ones_like(value[..., :1])], -1)
