r"""An encoder without a network: the slope of the decoder's own loss at z = 0.

For values v_i at P points, of C channels each, and a decoder f, let L(z) = |f(z) - v|^2 / (2 P C). Gradient origin
networks take z = -dL/dz at 0, and train f by the loss of what is decoded from there, through the slope: by gradients of
second order. At 0 the decoder is the same for all rows, and so is its matrix of slopes J = df/dz, (P C, d). So

    z = g * A J^T (v - f(0)) / (P C),    A = 1/s (one step along the slope)  or  s (J^T J / (P C) + s^2 diag(r))^-1,

is linear in v, and costs d passes of the decoder for a whole batch. s^2 is the mean of the diagonal of J^T J / (P C):
with it z has the same size whatever that of J is, which is far from 1 before training, and with the bare slope z would
be all but 0. Gains g and ridges r, of each number, are learned. q(z | v) has one sd for each number, whatever v is.

The second A is a step of least squares. It makes z the mean of the posterior that the decoder has if it is replaced by
its tangent at 0, and where the columns of J are not orthogonal at the points that are seen, as they are not at a few
random ones, it tells them apart; the bare slope does not.

**Linear decoders.** Where f(z) = W z, J is W at the points that are seen, and z is g / s W^T v / (P C), a projection,
or, at g = 1 / s and s^2 r = sigma^2 / (P C), the mean of the exact posterior of the model in `objectives`. Decoders
that are not linear say more: they bend what a linear encoder finds onto their surface.

References:
    | Gradient Origin Networks (Bond-Taylor & Willcocks, 2021), https://arxiv.org/abs/2007.02798
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.emulators.encoders import At, Decode, Encoder, EncoderNetwork, Values

_RIDGE = 0.1  # r, before training


class Origin(Encoder):
    """The decoder's slopes at the origin.

    Args:
        solved: Whether the step is that of least squares; else it is one along the slope, as in the paper.
    """

    def __init__(self, *, solved: bool = True) -> None:
        self.solved = solved

    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> EncoderNetwork:
        del channels, space, edges  # which the decoder knows
        return _Slope(numbers // 2, solved=self.solved)


@final
class _Slope(EncoderNetwork):
    """See `Origin`."""

    def __init__(self, numbers: int, *, solved: bool) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.full((numbers,), math.log(numbers) / 2))
        self.log_ridge = nn.Parameter(torch.full((numbers,), math.log(_RIDGE))) if solved else None
        self.spread = nn.Parameter(torch.zeros(numbers))

    def forward(self, values: Values, at: At, decode: Decode) -> Float[Tensor, "batch number"]:
        del at  # where `decode` is
        due = values.flatten(1)
        decoded, slopes = (part.flatten(1) for part in _slopes(decode, due.new_zeros(len(self.spread))))
        squares = slopes @ slopes.mT / due.shape[1]
        size = squares.diagonal().mean().clamp_min(torch.finfo(due.dtype).tiny)
        step = (due - decoded[:1]) @ slopes.mT / due.shape[1] / size.sqrt()
        if self.log_ridge is not None:
            step = torch.linalg.solve(squares / size + torch.diag(self.log_ridge.exp()), step.mT).mT
        return torch.cat([self.log_gain.exp() * step, self.spread.expand_as(step)], 1)


def _slopes(decode: Decode, origin: Float[Tensor, " number"]) -> tuple[Tensor, Tensor]:
    """What is decoded at the origin, and along each direction from there how it changes, both (number, channel, point).

    u^T J is linear in u, and its own slope is J, so that differentiation backwards is enough. Gradients go through it,
    and it is the same where none are kept.
    """
    decoded, back = torch.func.vjp(decode, origin.expand(len(origin), -1))[:2]
    again = torch.func.vjp(lambda u: back(u)[0], torch.zeros_like(decoded))[1]
    return decoded, again(torch.eye(len(origin), dtype=origin.dtype, device=origin.device))[0]
