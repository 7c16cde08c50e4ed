"""A posterior of two modes whose density is known, and how flows are trained on it and on other laws."""

from __future__ import annotations

import math

import torch
from flows.architectures import CONTEXT, seeded
from torch import nn

MEANS = torch.tensor([[-1.0, 0.2], [1.0, 0.5]])
FACTORS = torch.tensor([[[0.5, 0.0], [0.3, 0.2]], [[0.3, 0.0], [-0.3, 0.3]]])


def two_modes(n, generator):
    """z | c: two correlated Gaussians moved by c; c; and log p(z | c)."""
    c = torch.randn(n, CONTEXT, generator=generator)
    k = torch.randint(2, (n,), generator=generator)
    z = MEANS[k] + (FACTORS[k] @ torch.randn(n, 2, 1, generator=generator))[..., 0]
    parts = torch.distributions.MultivariateNormal(MEANS, scale_tril=FACTORS)
    return z + c[:, :2], c, parts.log_prob(z[:, None]).logsumexp(-1) - math.log(2)


def fitted(architecture, draw=two_modes, *, steps, rows=256):
    """A flow trained on draws of a law of two dimensions, given by a function of a number and a generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = architecture.build(2, CONTEXT).train()
    generator, optimiser = seeded(1), torch.optim.Adam(flow.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        z, c, _ = draw(rows, generator)
        optimiser.zero_grad()
        flow.loss(z, c, generator=generator).mean().backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    return flow.eval()


@torch.no_grad()
def excess(flow, draw=two_modes):
    """Mean of log p - log q on 10,000 fresh rows; its standard error is below 0.005 where it is below 0.05."""
    z, c, log_p = draw(10_000, seeded(2))
    return float((log_p - flow.log_prob(z, c)).mean())
