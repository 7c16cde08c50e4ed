r"""The network of `networks.modulated` with magnitude-preserving layers: the input of each layer keeps an rms of 1.

Each row of each weight matrix is normalised to norm 1. So uncorrelated inputs of rms 1 give outputs of rms 1. There are
no biases; instead, a constant 1 is among the inputs. Sums and scalings are divided by their effect on the rms, for
independent a, b of rms 1,

    sum(a, b; t) = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2),      scaled(a, b; g) = a (1 + g b) / sqrt(1 + g^2).

Learned gains g start at 0. They set the size of the modulation and of the network's output. With v, c and l of
`networks.modulated`, unit(a) = a / rms(a) in each row, and w(l) = sqrt(2) (cos(f_i l), sin(f_i l)),

    q = unit(silu(sum(G c, T w(l); 1/2))),    h_0 = V v,    h_k = sum(h, B_k unit(silu(i)); 0.3),    h = unit(h_{k-1}),
    i = sum(scaled(A_k h, M_k q; g_k), S_k q; 1/2),    F = g W unit(h_K).

**Forced norm.** The network does not depend on the norms of the weights, so an optimiser step is orthogonal to each
weight row. The norms would therefore grow, and steps would have less and less effect. So in training, the weights are
rescaled to an rms of 0.1 before each forward pass. A step of Muon or AdamW at the usual peak rate of 8e-3 changes such
weights by 1.6 %. In the paper the change is 1 %: steps of 0.01 for weights of rms 1. If several networks are trained at
once, the stored weights are not rescaled. Then only the normalised weights that the network uses have norm 1.

**What differs from the paper.** The paper divides silu by 0.596, its rms for normal inputs. It normalises streams to
rms 1 only in the first half of the network. In networks as small as these, rows of weights become correlated with their
inputs during training. Without further normalisation, the inputs of layers reached an rms of several. So here `unit`
normalises each row after each silu and at the end. The paper's networks have no term S_k q.

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

KEPT = 0.1  # Root mean square (rms) of the stored weights.
_ADDED = 0.3  # Mixing weight t of each block's output.
_EPS = 1e-6


def unit(value: Float[Tensor, "*rows number"]) -> Float[Tensor, "*rows number"]:
    """Each row divided by its root mean square (rms), so that its rms is 1."""
    return value / (_EPS + value.square().mean(-1, keepdim=True).sqrt())


def added(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Weighted sum of two independent tensors of rms 1, rescaled to rms 1; `share` is the weight of the second."""
    return first.lerp(second, share) / math.hypot(1 - share, share)


def scaled(value: Tensor, by: Tensor, gain: Tensor) -> Tensor:
    """`value` (1 + `gain` `by`), entry by entry, rescaled to rms 1 for independent `value` and `by` of rms 1."""
    return value * (1 + gain * by) / (1 + gain.square()).sqrt()


class Unit(nn.Module):
    """A linear layer without bias, whose weight rows are normalised to norm 1.

    Args:
        inputs: Number of inputs.
        outputs: Number of outputs.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(KEPT * torch.randn(outputs, inputs))

    def forward(self, value: Float[Tensor, "*rows input"]) -> Float[Tensor, "*rows output"]:
        weight = self.weight  # It may be mapped by vmap, or frozen in a teacher network.
        if self.training and weight.requires_grad and isinstance(weight, nn.Parameter):
            with torch.no_grad():  # Through `data`: a second forward pass before the optimiser step stays valid.
                weight.data.copy_(KEPT * unit(weight))
        return F.linear(value, unit(weight) / weight.shape[1] ** 0.5)


class Preserving(nn.Module):
    """Magnitude-preserving network, with the same arguments as `networks.modulated.Modulated`.

    Args:
        inputs: Width of the input v.
        dim: D, the width of the output F.
        features: Width of the features c.
        hidden: Width of the hidden state h.
        blocks: K, the number of residual blocks.
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
        """G c, the contribution of the features to the modulation, computed by two layers."""
        return self.again(unit(F.silu(self.given(_with_one(context)))))

    def forward(
        self,
        value: Float[Tensor, "*rows input"],
        log_level: Float[Tensor, "*level"],
        prepared: Float[Tensor, "batch hidden"],
    ) -> Float[Tensor, "*rows dim"]:
        """F, the output of the network; the arguments are those of `Modulated.forward`."""
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
        """Multiply the output F by a factor."""
        self.factor.mul_(factor)


def _with_one(value: Tensor) -> Tensor:
    return torch.cat([value, torch.ones_like(value[..., :1])], -1)
