r"""Attention for patches of a field on a ring, which look at each other and at things that have no place.

Queries q_i stand at angles a_i of the ring, keys k_j at angles a_j or nowhere. With R(a) the rotation of pairs of
entries by m a, m = 0, 1, 2, ... whole numbers (rotary embedding),

    score_ij = (R(a_i) q_i)^T R(a_j) k_j / sqrt(h)     of keys on the ring: of a_i - a_j alone, the ring being closed,
    score_ij = q_i^T k_j / sqrt(h)                      of others, wherever i is,

one softmax over both. A layer that is shown a field turned by some patches thus answers as before, turned as well: an
equation whose coefficients are the same everywhere need not be learnt at each place. On a torus each direction has its
angle, and turns an equal part of the pairs. Before attention and before the
two-layer network after it stands a normalisation.

References:
    | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), https://arxiv.org/abs/2104.09864
    | Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

_WIDER = 2  # the inner width of the two-layer network
_FASTEST = 8  # numbers of the rotations go up to this


class RingLayer(nn.Module):
    """Attention, then a network at every token.

    Args:
        width: Of tokens, a multiple of twice the heads.
        heads: Of attention.
    """

    waves: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.leave = nn.Linear(width, width), nn.Linear(width, width)
        self.pair = nn.Linear(width, 2 * width)
        self.inner = nn.Sequential(nn.Linear(width, _WIDER * width), nn.GELU(), nn.Linear(_WIDER * width, width))
        waves = torch.arange(width // heads // 2) % (_FASTEST + 1)
        self.register_buffer("waves", waves.float(), persistent=False)

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"],
        angles: Float[Tensor, " token *direction"] | None,
        ring: tuple[Float[Tensor, "batch key width"], Float[Tensor, " key *direction"]] | None,
        beside: tuple[Float[Tensor, "batch other width"], Bool[Tensor, "batch other"]] | None,
    ) -> Float[Tensor, "batch token width"]:
        """New tokens.

        Args:
            tokens: What looks.
            angles: Where they stand, in each direction; None for nowhere, whence there is no ring to look at.
            ring: What is looked at on the ring, and where it stands.
            beside: What is looked at that has no place, and which of it is there.
        """
        asked = self._split(self.query(self.before(tokens)))
        scores, values = [], []
        if ring is not None and angles is not None:
            key, value = (self._split(part) for part in self.pair(self.before(ring[0])).chunk(2, -1))
            scores.append(self._turned(asked, angles) @ self._turned(key, ring[1]).mT)
            values.append(value)
        if beside is not None:
            key, value = (self._split(part) for part in self.pair(self.before(beside[0])).chunk(2, -1))
            score = asked @ key.mT
            scores.append(torch.where(beside[1][:, None, None, :], score, torch.full_like(score, -1e9)))
            values.append(value)
        share = (torch.cat(scores, -1) / math.sqrt(asked.shape[-1])).softmax(-1)
        tokens = tokens + self.leave((share @ torch.cat(values, -2)).transpose(1, 2).flatten(2))
        return tokens + self.inner(self.between(tokens))

    def _split(self, tokens: Tensor) -> Tensor:
        """(batch, token, width) -> (batch, head, token, width of a head)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _turned(self, parts: Tensor, angles: Tensor) -> Tensor:
        directions = 1 if angles.ndim == 1 else angles.shape[1]
        each = self.waves[: len(self.waves) // directions]  # of the pairs that a direction turns; others stay
        angle = F.pad((angles[..., None] * each).flatten(1), (0, len(self.waves) - directions * len(each)))
        first, second = parts.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class NumberEmbedding(nn.Module):
    """Numbers of any size and sign as vectors: c / (1 + |c|), sign, log|c|, and cosines and sines of this.

    Args:
        width: Of the vectors.
        octaves: Cosines and sines of 2^k log|c|, k below it.
    """

    def __init__(self, width: int, octaves: int = 4) -> None:
        super().__init__()
        self.octaves = octaves
        self.map = nn.Sequential(nn.Linear(3 + 2 * octaves, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, numbers: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        size = numbers.abs().clamp_min(1e-12).log()
        angle = size[..., None] * 2.0 ** torch.arange(self.octaves, device=numbers.device)
        plain = torch.stack([numbers / (1 + numbers.abs()), numbers.sign(), 0.25 * size], -1)
        return self.map(torch.cat([plain, angle.cos(), angle.sin()], -1))


def waves_of(count: int, width: int, like: Tensor) -> Float[Tensor, "count width"]:
    """Sines and cosines of places in a sequence, from the shortest to the longest wave."""
    rate = (-math.log(1e4) * torch.arange(width // 2, device=like.device) / (width // 2)).exp()
    angle = torch.arange(count, device=like.device)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], -1).to(like.dtype)


def patches(fields: Float[Tensor, "batch channel *space"], size: int) -> Float[Tensor, "batch patch number"]:
    """Pieces of a ring or a torus, each with half a piece on either side."""
    half, directions = size // 2, fields.ndim - 2
    wide = F.pad(fields, (half, half) * directions, mode="circular")
    for axis in range(2, 2 + directions):
        wide = wide.unfold(axis, size + 2 * half, size)
    return wide.movedim(1, 1 + directions).flatten(1, directions).flatten(2)
