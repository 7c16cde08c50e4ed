"""How many equal sources stand behind five counts: one to six, each of the same unknown strength."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Counts, LogNormal, Observable, Prior, Simulator
from sciinf.core import X


class Sources(Simulator):
    """Counts of all sources together, and a noisy measurement of the strength of one source."""

    name = "verdict_sources"
    prior = Prior(sources=Counts(1, 6), strength=LogNormal(2.0, 0.3))
    observables = {"counts": Observable((5,), dims=("channel",)), "single": Observable((), "")}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        counts = torch.poisson((theta[:, :1] * theta[:, 1:]).expand(-1, 5), generator=generator)
        noise = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
        return {"counts": counts, "single": theta[:, 1].log() + 0.2 * noise}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        counts = td.Poisson(theta[:, :1] * theta[:, 1:]).log_prob(x["counts"].double()).sum(1)
        return counts + td.Normal(theta[:, 1].log(), 0.2).log_prob(x["single"].double())


simulator = Sources()
