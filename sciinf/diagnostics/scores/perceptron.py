"""Small networks as plain tensors, and their training: Adam, with a learning rate that rises and falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

_RATE, _DECAY, _CLIP = 3e-3, 1e-3, 5.0
BATCH = 256


def drawn(widths: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Initial weights of a perceptron with these layer widths, input first; the last layer is near 0."""
    found = {}
    for k, (size, out) in enumerate(pairwise(widths)):
        scale = math.sqrt((1.0 if k < len(widths) - 2 else 0.01) / size)
        found[f"weight{k}"] = scale * torch.randn(size, out, generator=generator)
        found[f"bias{k}"] = torch.zeros(out)
    return found


def applied(
    weights: Mapping[str, Tensor], u: Tensor, *, dropped: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Output of a perceptron for rows u (batch, K), float32.

    Args:
        weights: Result of `drawn` or `descended`.
        u: Input rows, (batch, K).
        dropped: Share of the hidden units to leave out at random, during training.
        generator: Source of randomness for `dropped`.
    """
    last = len(weights) // 2 - 1
    h = u.float()
    for k in range(last + 1):
        h = h @ weights[f"weight{k}"] + weights[f"bias{k}"]
        h = silu(h) if k < last else h
        if dropped and k < last:
            h = h * (torch.rand(h.shape, generator=generator) >= dropped) / (1 - dropped)
    return h


def descended(
    weights: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor], steps: int
) -> dict[str, Tensor]:
    """Train weights to make a loss small; each call of the loss uses another batch.

    Args:
        weights: Initial weights.
        loss: Weights -> loss.
        steps: Number of calls of the loss.
    """
    moving = {name: value.clone().requires_grad_() for name, value in weights.items()}
    optimiser = torch.optim.AdamW(moving.values(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    for _ in range(steps):
        with torch.enable_grad():
            optimiser.zero_grad()
            loss(moving).backward()
        torch.nn.utils.clip_grad_norm_(moving.values(), _CLIP)
        optimiser.step()
        schedule.step()
    return {name: value.detach() for name, value in moving.items()}


def some(count: int, generator: torch.Generator) -> Tensor:
    """Random row indices of one batch, from `count` rows."""
    return torch.randint(count, (BATCH,), generator=generator)
