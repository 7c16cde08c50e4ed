r"""A Gaussian whose mean and covariance depend on the context; placed before splines, which learn the remaining shape.

The map from data z to noise e is

    e = A(c) (z - m(c)),    A = diag(exp(s)) (I + L),

with a strictly lower triangular L. Each of m, s and L is the sum of a linear map and a small network of the context. 8
tanh(. / 8) keeps s within [-8, 8].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConditionalGaussian(nn.Module):
    """The map z -> A(c) (z - m(c)), with a lower triangular A of positive diagonal; initially the identity."""

    below: Tensor

    def __init__(self, dim: int, context: int, hidden: int) -> None:
        super().__init__()
        self.dim = dim
        outputs = 2 * dim + dim * (dim - 1) // 2
        self.direct = nn.Linear(context, outputs)
        last = nn.Linear(hidden, outputs)
        self.net = nn.Sequential(nn.Linear(context, hidden), nn.SiLU(), last)
        for layer in (self.direct, last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        indices = torch.tril_indices(dim, dim, -1)
        self.register_buffer("below", indices[0] * dim + indices[1], persistent=False)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        mean, factor, log_scale = self.moments(context)
        centred = value - mean.T[:, None, :]
        moved = (factor.permute(1, 2, 0)[:, :, None, :] * centred).sum(1)
        return moved, log_scale.sum(1)

    def inverse(self, value: Tensor, context: Tensor) -> Tensor:
        mean, factor, _ = self.moments(context)
        solved = torch.linalg.solve_triangular(factor, value.permute(2, 0, 1), upper=False)
        return solved.permute(1, 2, 0) + mean.T[:, None, :]

    def moments(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m, A and the logarithm of A's diagonal, of shapes (batch, D), (batch, D, D) and (batch, D)."""
        d = self.dim
        raw = self.direct(context) + self.net(context)
        log_scale = 8 * torch.tanh(raw[:, d : 2 * d] / 8)
        factor = raw.new_zeros(len(raw), d * d).index_add(1, self.below, raw[:, 2 * d :]).view(-1, d, d)
        scale = log_scale.exp()
        return raw[:, :d], scale[:, :, None] * (factor + torch.eye(d, dtype=raw.dtype, device=raw.device)), log_scale


def undrawn(dim: int, context: int, hidden: int) -> ConditionalGaussian:
    """A `ConditionalGaussian` with uninitialised weights, made without any use of torch's random state."""
    with torch.device("meta"):
        made = ConditionalGaussian(dim, context, hidden)
    made.to_empty(device="cpu")
    indices = torch.tril_indices(dim, dim, -1)
    made.below.copy_(indices[0] * dim + indices[1])
    return made
