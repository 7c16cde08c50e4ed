"""A small network, a short training on draws of a mixture, and how far draws are from the line's law."""

from __future__ import annotations

import torch
from diffusion.mixtures import LINE
from torch import Tensor, nn


class Net(nn.Module):
    """What is shown (*rows, inputs) and log s to (*rows, dim); the same weights each time."""

    def __init__(self, inputs, dim, hidden=64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first, second, last = nn.Linear(inputs + 3, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, dim)
        self.layers = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)

    def forward(self, shown, log):
        log = log.expand(shown.shape[:-1])[..., None]
        return self.layers(torch.cat([shown, log / 4, log.sin(), log.cos()], -1))


def trained(net, loss, mixture, *, steps, rows, rate):
    """The network after so many steps on `loss(net, data, generator=)`, the data and noise the same each time."""
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    for _ in range(steps):
        value = loss(net, mixture.sample(rows, generator).float(), generator=generator).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        plan.step()
    return net


def distance_to_line(draws: Tensor, least: float) -> float:
    """Wasserstein-1 between draws (n, 1) and the line's law at a level."""
    x = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    sd = (LINE.sd[:, 0] ** 2 + least**2).sqrt()
    exact = (LINE.weight * torch.special.ndtr((x[:, None] - LINE.mean[:, 0]) / sd)).sum(-1)
    found = torch.searchsorted(draws[:, 0].double().contiguous().sort().values, x) / len(draws)
    return float((found - exact).abs().mean() * 8)
