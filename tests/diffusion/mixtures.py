"""Gaussian mixtures, whose denoiser, density and draws are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Components (K,), (K, D), (K, D): weights, means, sds of independent coordinates; float64."""

    weight: Tensor
    mean: Tensor
    sd: Tensor

    def denoise(self, y: Tensor, level: Tensor) -> Tensor:
        """E[x_0 | x_0 + s e = y]."""
        level = level.to(y).expand(y.shape[:-1])[..., None, None]
        variance = self.sd**2 + level**2
        off = y[..., None, :] - self.mean
        log = self.weight.log() - 0.5 * (off**2 / variance + variance.log()).sum(-1)
        each = self.mean + self.sd**2 / variance * off
        return (torch.softmax(log, dim=-1)[..., None] * each).sum(-2)

    def log_prob(self, x: Tensor, level: float = 0.0) -> Tensor:
        variance = self.sd**2 + level**2
        log = -0.5 * ((x[..., None, :] - self.mean) ** 2 / variance + (2 * torch.pi * variance).log()).sum(-1)
        return torch.logsumexp(self.weight.log() + log, dim=-1)

    def cdf(self, x: Tensor) -> Tensor:
        """Of one dimension, (n,)."""
        return (self.weight * torch.special.ndtr((x[:, None] - self.mean[:, 0]) / self.sd[:, 0])).sum(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weight, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.mean.shape[1], generator=generator, dtype=torch.float64)
        return self.mean[which] + self.sd[which] * noise


def double(*rows: object) -> Tensor:
    return torch.tensor(rows[0], dtype=torch.float64)


LINE = Mixture(double([0.3, 0.7]), double([[-1.1], [0.6]]), double([[0.3], [0.5]]))
PLANE = Mixture(
    double([0.5, 0.3, 0.2]),
    double([[-1.0, 0.5], [0.9, 0.8], [0.2, -1.2]]),
    double([[0.3, 0.6], [0.5, 0.2], [0.4, 0.4]]),
)
