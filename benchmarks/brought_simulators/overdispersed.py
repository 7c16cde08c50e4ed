"""Are thirty counts of one rate Poisson, or do they vary more (negative binomial)? A choice of model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Choice, LogNormal, Observable, Only, Prior, Simulator
from sciinf.core import X

COUNTS, POINTS = 30, 300


class Counts(Simulator):
    """Counts of mean `mean`; in the second model their variance is mean + mean^2 / size."""

    name = "overdispersed"
    prior = Prior(
        model=Choice("poisson", "negative binomial"),
        mean=LogNormal(1.5, 0.6),
        size=Only(LogNormal(1.5, 1.0), model="negative binomial"),
    )
    observables = {"n": Observable((COUNTS,), dims=("item",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        mean, size = theta[:, 1:2].double(), theta[:, 2:3].double()
        shape = size.nan_to_num(1.0).expand(-1, COUNTS)
        varied = torch._standard_gamma(shape.contiguous(), generator=generator) / shape
        rate = torch.where(size.isnan(), mean, mean * varied)
        return {"n": torch.poisson(rate, generator=generator).to(theta.dtype)}

    def exact(self, x: X) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        """Probabilities of the models, and mean and sd of each parameter where it exists, from grids of logarithms."""
        n = x["n"].double().reshape(-1)
        u, v = (torch.linspace(low, high, POINTS, dtype=torch.float64) for low, high in ((-1.5, 4.5), (-3.5, 6.5)))
        flat = td.Normal(torch.tensor(1.5).double(), 0.6).log_prob(u) + (u[1] - u[0]).log()
        wide = td.Normal(torch.tensor(1.5).double(), 1.0).log_prob(v) + (v[1] - v[0]).log()
        poisson = flat + td.Poisson(u.exp()).log_prob(n[:, None]).sum(0)
        mean, size = u.exp()[:, None], v.exp()[None]
        law = td.NegativeBinomial(size.expand(POINTS, -1), logits=(mean / size).log())
        joint = flat[:, None] + wide + sum(law.log_prob(value) for value in n)
        models = torch.stack([poisson.logsumexp(0), joint.logsumexp((0, 1))]).softmax(0)
        share = joint.flatten().softmax(0).view_as(joint)
        of_mean = models[0] * poisson.softmax(0) + models[1] * share.sum(1)
        moments = {}
        for name, weight, value in (("mean", of_mean, u.exp()), ("size", share.sum(0), v.exp())):
            middle = weight @ value
            moments[name] = float(middle), float((weight @ (value - middle).square()).sqrt())
        return {"model": models}, moments


simulator = Counts()
