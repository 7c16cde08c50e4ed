r"""What a granite is made of: minerals counted at 300 points of a thin section, with the exact posterior.

A slice of the rock is laid under a microscope, and the mineral is noted at each of n = 300 points of a grid that is
coarser than the grains. The fractions f_1, ..., f_4 of quartz, feldspar, mica and all the rest make up the whole:

    f ~ Dirichlet(a),     counts ~ Multinomial(n, f),     a = (3, 5, 2, 1).

Given the counts the fractions are Dirichlet(a + counts): each f_i has the mean (a_i + counts_i) / (sum of a + n).

References:
    | Petrographic Modal Analysis: an elementary statistical appraisal (Chayes, 1956)
    | Bayesian Data Analysis, section 3.4 (Gelman et al., 2013), http://www.stat.columbia.edu/~gelman/book
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, X
from sciinf.core.prior import global_seed

MINERALS = ("quartz", "feldspar", "mica", "rest")
ALPHA = (3.0, 5.0, 2.0, 1.0)
POINTS = 300


class MineralFractions(Simulator):
    """Points of a thin section at which each mineral lies."""

    name = "mineral_fractions"
    prior = Prior.joint(MINERALS, td.Dirichlet(torch.tensor(ALPHA, dtype=torch.float64)))
    observables: Mapping[str, Observable] = {
        "points": Observable((len(MINERALS),), dims=("mineral",), dtype="int64", coords={"mineral": MINERALS})
    }
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        """Each mineral among the points that those before it leave, with its share of what these leave of the whole."""
        fractions = theta.double() / theta.double().sum(-1, keepdim=True)
        left = torch.full_like(fractions[:, 0], float(POINTS))
        counts = torch.zeros_like(fractions)
        for i in range(len(MINERALS) - 1):
            share = (fractions[:, i] / fractions[:, i:].sum(-1)).clamp(0.0, 1.0)
            counts[:, i] = torch.binomial(left, share, generator=generator)
            left = left - counts[:, i]
        counts[:, -1] = left
        return {"points": counts.long()}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        fractions, counts = theta.double() / theta.double().sum(-1, keepdim=True), x["points"].double()
        ways = torch.lgamma(counts.sum(-1) + 1) - torch.lgamma(counts + 1).sum(-1)
        return ways + torch.xlogy(counts, fractions).sum(-1)

    def exact(self, x: X | Tensor) -> td.Dirichlet:
        """The posterior given counts (*batch, 4), of batch shape (*batch,), in float64."""
        counts = (x if isinstance(x, Tensor) else x["points"]).double()
        return td.Dirichlet(torch.tensor(ALPHA, dtype=torch.float64) + counts)

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        with global_seed(generator):
            return self.exact(x["points"].reshape(len(MINERALS))).sample((n,)).to(self.prior.dtype)


simulator = MineralFractions()
