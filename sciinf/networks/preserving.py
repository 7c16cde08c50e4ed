r"""The network of `networks.modulated` with layers that preserve magnitudes: what each layer takes has rms 1 as it
learns.

Each row of each weight matrix is used at norm 1, so that inputs of rms 1 that do not agree with each other give outputs
of rms 1. There are no biases; a constant 1 is among the inputs. What adds or scales is divided by what it does to the
rms, for independent a, b of rms 1,

    sum(a, b; t) = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2),      scaled(a, b; g) = a (1 + g b) / sqrt(1 + g^2),

and gains g, which start at 0, set how much is said at all: of the modulation, and in the end. With v, c and l of
`networks.modulated`, unit(a) = a / rms(a) in each row, and w(l) = sqrt(2) (cos(f_i l), sin(f_i l)),

    q = unit(silu(sum(G c, T w(l); 1/2))),    h_0 = V v,    h_k = sum(h, B_k unit(silu(i)); 0.3),    h = unit(h_{k-1}),
    i = sum(scaled(A_k h, M_k q; g_k), S_k q; 1/2),    F = g W unit(h_K).

**Forced norm.** A step of the optimiser is at right angles to a weight whose norm does not matter, so the norm would
grow and steps count for less and less. So before each pass in training the weights themselves are set back, to an rms
of 0.1: a step of Muon or AdamW at the usual peak rate of 8e-3 is 1.6 % of that, and the paper's, 0.01 of weights of rms
1, 1 %. Where several networks are trained at once, weights are not set back: there only what is used has norm 1.

**What differs from the paper.** It divides silu by 0.596, its rms for normal inputs, and sets streams to rms 1 in the
first half of its network only. In networks as small as these, rows of weights come to agree with what they are shown,
and so trained, layers came to be shown rms of several. Hence `unit`, in each row, after each silu and in the end. Its
networks have no S_k q.

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

from sciinf.networks.modulated import FREQUENCIES

KEPT = 0.1  # rms of weights
_ADDED = 0.3  # t: what a block adds
_EPS = 1e-6


def unit(value: Float[Tensor, "*rows number"]) -> Float[Tensor, "*rows number"]:
    """Each row at rms 1."""
    return value / (_EPS + value.square().mean(-1, keepdim=True).sqrt())


def added(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Both, the second by a share, at rms 1."""
    return first.lerp(second, share) / math.hypot(1 - share, share)


def scaled(value: Tensor, by: Tensor, gain: Tensor) -> Tensor:
    """Each number times one plus a gain times another, at rms 1."""
    return value * (1 + gain * by) / (1 + gain.square()).sqrt()


class Unit(nn.Module):
    """A linear layer whose rows have norm 1, without a bias.

    Args:
        inputs: Width of what it takes.
        outputs: Width of what it gives.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(KEPT * torch.randn(outputs, inputs))

    def forward(self, value: Float[Tensor, "*rows input"]) -> Float[Tensor, "*rows output"]:
        weight = self.weight  # a mapped tensor where several networks are trained, and frozen in a teacher
        if self.training and weight.requires_grad and isinstance(weight, nn.Parameter):
            with torch.no_grad():  # by `data`: a second pass before the step may come, and changes nothing
                weight.data.copy_(KEPT * unit(weight))
        return F.linear(value, unit(weight) / weight.shape[1] ** 0.5)


class Preserving(nn.Module):
    """The network, for the same arguments as `networks.modulated.Modulated`.

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
        self.first, self.second, self.scales, self.shifts = (
            nn.ModuleList(Unit(hidden, hidden) for _ in range(blocks)) for _ in range(4)
        )
        self.gains = nn.Parameter(torch.zeros(blocks))
        self.leave, self.gain = Unit(hidden, dim), nn.Parameter(torch.zeros(()))
        self.register_buffer("frequencies", 0.25 * 2.0 ** torch.arange(FREQUENCIES), persistent=False)
        self.register_buffer("factor", torch.ones(()))

    def prepare(self, context: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch hidden"]:
        """G c, by two layers."""
        return self.again(unit(F.silu(self.given(_with_one(context)))))

    def forward(
        self,
        value: Float[Tensor, "*rows input"],
        log_level: Float[Tensor, "*level"],
        prepared: Float[Tensor, "batch hidden"],
    ) -> Float[Tensor, "*rows dim"]:
        """F; see `Modulated.forward`."""
        angle = log_level[..., None] * self.frequencies
        clock = self.clock(_with_one(2**0.5 * torch.cat([angle.cos(), angle.sin()], dim=-1)))
        condition = unit(F.silu(added(prepared, clock, 0.5)))
        hidden = self.enter(_with_one(value))
        for first, second, scale, shift, gain in zip(
            self.first, self.second, self.scales, self.shifts, self.gains, strict=True
        ):
            hidden = unit(hidden)
            inner = added(scaled(first(hidden), scale(condition), gain), shift(condition), 0.5)
            hidden = added(hidden, second(unit(F.silu(inner))), _ADDED)
        return self.factor * self.gain * self.leave(unit(hidden))

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Make F that many times itself."""
        self.factor.mul_(factor)


def _with_one(value: Tensor) -> Tensor:
    return torch.cat([value, torch.ones_like(value[..., :1])], -1)
