r"""An encoder without a network: the gradient of the decoder's own loss at z = 0.

The values v_i are given at P points and have C channels each. For a decoder f let L(z) = |f(z) - v|^2 / (2 P C).
Gradient origin networks take z = -dL/dz at 0. They train f by the loss of what f decodes from this z. The gradient of
that loss goes through -dL/dz, so it contains second derivatives. At 0 the decoder is the same for all rows, and so is
its Jacobian J = df/dz, (P C, d). So

    z = g * A J^T (v - f(0)) / (P C),    A = 1/s (one step along the gradient)  or  s (J^T J / (P C) + s^2 diag(r))^-1,

is linear in v, and costs d passes of the decoder for a whole batch. s^2 is the mean of the diagonal of J^T J / (P C).
With s, the size of z does not depend on the size of J, which is far from 1 before training. With the bare gradient, z
would be almost 0. The gain g and the ridge r of each component of z are learned. The sd of q(z | v) is one learned
value for each component, whatever v is.

The second A is a least-squares step. It makes z the posterior mean of a model in which the decoder is replaced by its
tangent at 0. At a few random points, the columns of J are not orthogonal. The least-squares step then separates their
contributions; the bare gradient does not.

**Linear decoders.** Where f(z) = W z, J is W at the observed points, and z is g / s W^T v / (P C), a projection. With
the second A, g = 1 / s and s^2 r = sigma^2 / (P C), z is the mean of the exact posterior of the model in `objectives`.
A decoder that is not linear adds more: it maps what this linear encoder finds onto its own curved surface.

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

_RIDGE = 0.1  # Ridge r before training.


class Origin(Encoder):
    """An encoder by the gradient of the decoder's loss at the origin.

    Args:
        solved: Whether the step is a least-squares step. If False, the encoder takes one step along the gradient, as in
            the paper.
    """

    def __init__(self, *, solved: bool = True) -> None:
        self.solved = solved

    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> EncoderNetwork:
        del channels, space, edges  # The decoder already knows the layout.
        return _Slope(numbers // 2, solved=self.solved)


@final
class _Slope(EncoderNetwork):
    """The network that `Origin` builds: learned gains, ridges and sds."""

    def __init__(self, numbers: int, *, solved: bool) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.full((numbers,), math.log(numbers) / 2))
        self.log_ridge = nn.Parameter(torch.full((numbers,), math.log(_RIDGE))) if solved else None
        self.spread = nn.Parameter(torch.zeros(numbers))

    def forward(self, values: Values, at: At, decode: Decode) -> Float[Tensor, "batch number"]:
        del at  # `decode` evaluates at these points already.
        due = values.flatten(1)
        decoded, slopes = (part.flatten(1) for part in _slopes(decode, due.new_zeros(len(self.spread))))
        squares = slopes @ slopes.mT / due.shape[1]
        size = squares.diagonal().mean().clamp_min(torch.finfo(due.dtype).tiny)
        step = (due - decoded[:1]) @ slopes.mT / due.shape[1] / size.sqrt()
        if self.log_ridge is not None:
            step = torch.linalg.solve(squares / size + torch.diag(self.log_ridge.exp()), step.mT).mT
        return torch.cat([self.log_gain.exp() * step, self.spread.expand_as(step)], 1)


def _slopes(decode: Decode, origin: Float[Tensor, " number"]) -> tuple[Tensor, Tensor]:
    """Decoded values at the origin, and their derivatives along each latent direction, both (number, channel, point).

    u^T J is linear in u, and its derivative by u is J, so reverse-mode differentiation is enough. Gradients go through
    the result, and the result is the same where no gradients are recorded.
    """
    decoded, back = torch.func.vjp(decode, origin.expand(len(origin), -1))[:2]
    again = torch.func.vjp(lambda u: back(u)[0], torch.zeros_like(decoded))[1]
    return decoded, again(torch.eye(len(origin), dtype=origin.dtype, device=origin.device))[0]
