r"""Repeated counts of a bird at 20 sites: how many live at a site, and how often is one of them seen?

A site has N_i birds, which stay during all visits, and each visit sees each of them with the probability p:

    N_i ~ Poisson(abundance),     y_ij ~ Binomial(N_i, p),     i = 1 ... 20,     j = 1 ... 3.

The likelihood of a site is the sum over N_i from 0 to 300.

References:
    | N-mixture models for estimating population size from spatially replicated counts (Royle, 2004),
      https://doi.org/10.1111/j.0006-341X.2004.00142.x
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Observable, Prior, Simulator, Uniform
from sciinf.core import X

SITES, VISITS = 20, 3
LARGEST = 300  # birds at a site, in the sum of the likelihood


class NMixture(Simulator):
    """Counts of each site and visit."""

    name = "n_mixture"
    prior = Prior(abundance=LogNormal(math.log(6.0), 0.7), detection=Uniform(0.05, 0.95))
    observables = {"counts": Observable((SITES, VISITS), dims=("item", "visit"), dtype="int64")}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        abundance, detection = theta.double()[:, :, None].unbind(1)
        birds = torch.poisson(abundance.expand(-1, SITES).contiguous(), generator=generator)
        birds = birds[..., None].expand(-1, -1, VISITS).contiguous()
        seen = torch.binomial(birds, detection[..., None].expand_as(birds).contiguous(), generator=generator)
        return {"counts": seen.long()}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 2), float64."""
        abundance, detection = theta.double()[:, :, None].unbind(1)
        counts, birds = x["counts"][0].double(), torch.arange(LARGEST + 1, dtype=torch.float64)
        missed = (birds - counts[..., None]).clamp_min(0.0)
        ways = torch.lgamma(birds + 1) - torch.lgamma(counts + 1)[..., None] - torch.lgamma(missed + 1)
        ways = torch.where(birds >= counts[..., None], ways, -math.inf).sum(1)
        each = td.Poisson(abundance).log_prob(birds) + VISITS * birds * torch.log1p(-detection)
        odds = counts.sum(1) * (detection.log() - torch.log1p(-detection))
        return ((each[:, None] + ways).logsumexp(-1) + odds).sum(1)


simulator = NMixture()
