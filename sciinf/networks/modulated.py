r"""A residual network whose layers are modulated by features of an observation and by a noise level.

For an input v, features c of an observation and the logarithm l of a noise level,

    g = silu(G c + T w(l)),    w(l) = (l / 4, cos(f_i l), sin(f_i l)),
    h_0 = V v,    h_k = h_{k-1} + B_k silu((1 + a_k) * (A_k h_{k-1} + r_k) + s_k),    (a_k, s_k) = M_k g,
    F = W h_K + U g.

The frequencies f_i are fixed; they double from one to the next, starting at 1/4. W and U start near 0, and so does F.
The term G c is the larger part of what the network computes from the observation. `prepare` computes this term once per
observation. The modulation is computed once per observation and noise level, so n samples at one level share its cost.

References:
    | Scalable Diffusion Models with Transformers (Peebles & Xie, 2023), https://arxiv.org/abs/2212.09748
    | FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCIES = 8


class Modulated(nn.Module):
    """The residual network of this module, modulated by features and noise level.

    Args:
        inputs: Width of the input v.
        dim: D, the width of the output F.
        features: Width of the features c.
        hidden: Width of the hidden state h.
        blocks: K, the number of residual blocks.
    """

    frequencies: Tensor

    def __init__(self, inputs: int, dim: int, features: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.features = features
        self.given = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.clock = nn.Linear(1 + 2 * FREQUENCIES, hidden)
        self.enter = nn.Linear(inputs, hidden)
        self.first = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.modulation = nn.Linear(hidden, 2 * blocks * hidden)
        self.leave, self.beside = nn.Linear(hidden, dim), nn.Linear(hidden, dim)
        for layer in (self.leave, self.beside):
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)
        self.register_buffer("frequencies", 0.25 * 2.0 ** torch.arange(FREQUENCIES), persistent=False)

    def prepare(self, context: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch hidden"]:
        """G c, the contribution of the features to the modulation."""
        return self.given(context)

    def forward(
        self,
        value: Float[Tensor, "*rows input"],
        log_level: Float[Tensor, "*level"],
        prepared: Float[Tensor, "batch hidden"],
    ) -> Float[Tensor, "*rows dim"]:
        """F, the output of the network.

        Args:
            value: v, (*n, batch, inputs).
            log_level: l, of shape () or one value per row.
            prepared: Result of `prepare`.
        """
        angle = log_level[..., None] * self.frequencies
        clock = torch.cat([0.25 * log_level[..., None], angle.cos(), angle.sin()], dim=-1)
        condition = F.silu(prepared + self.clock(clock))
        hidden = self.enter(value)
        pairs = self.modulation(condition).chunk(2 * len(self.first), dim=-1)
        for first, second, scale, shift in zip(self.first, self.second, pairs[::2], pairs[1::2], strict=True):
            inner = torch.addcmul(shift, 1 + scale, first(hidden))
            hidden = hidden + second(F.silu(inner))
        return self.leave(hidden) + self.beside(condition)

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply the output F by a factor."""
        for layer in (self.leave, self.beside):
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
