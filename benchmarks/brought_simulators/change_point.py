"""Did the rate of accidents change once in forty years, and when? A choice of model with a discrete place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Choice, Counts, LogNormal, Observable, Only, Prior, Simulator
from sciinf.core import X

YEARS, POINTS = 40, 600


class Accidents(Simulator):
    """Counts of a Poisson process whose rate is constant, or changes after the year `place`."""

    name = "change_point"
    prior = Prior(
        model=Choice("constant", "change"),
        before=(LogNormal(1.0, 0.7), "1/yr"),
        place=Only(Counts(1, YEARS - 1), model="change"),
        after=Only(LogNormal(1.0, 0.7), "1/yr", model="change"),
    )
    observables = {"accidents": Observable((YEARS,), dims=("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        year = torch.arange(YEARS)
        late = (theta[:, :1] == 1) & (year >= theta[:, 2:3].nan_to_num(float(YEARS)))
        rate = torch.where(late, theta[:, 3:4].nan_to_num(1.0), theta[:, 1:2])
        return {"accidents": torch.poisson(rate, generator=generator)}

    def exact(self, x: X) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        """Probabilities of the discrete values, and mean and sd of each rate, from grids of its logarithm.

        The place of the change is told given that there is one, as is `after`; `before` is of both models.
        """
        counts = x["accidents"].double().reshape(-1)
        log_rate = torch.linspace(-3.0, 5.0, POINTS, dtype=torch.float64)
        law = td.Normal(torch.tensor(1.0).double(), 0.7).log_prob(log_rate) + (log_rate[1] - log_rate[0]).log()
        each = td.Poisson(log_rate.exp()).log_prob(counts[:, None])  # (year, rate)
        first, last = each.cumsum(0), each.flip(0).cumsum(0).flip(0)
        before, after = law + first, law + last  # of the years up to one, and from one on
        log_change = before[:-1].logsumexp(1) + after[1:].logsumexp(1)
        log_models = torch.stack([before[-1].logsumexp(0), log_change.logsumexp(0) - torch.tensor(YEARS - 1.0).log()])
        models, places = log_models.softmax(0), log_change.softmax(0)
        mixed = models[0] * before[-1].softmax(0) + models[1] * (places[:, None] * before[:-1].softmax(1)).sum(0)
        later = (places[:, None] * after[1:].softmax(1)).sum(0)
        moments = {}
        for name, weight in (("before", mixed), ("after", later)):
            mean = weight @ log_rate.exp()
            moments[name] = float(mean), float((weight @ (log_rate.exp() - mean).square()).sqrt())
        return {"model": models, "place": places}, moments


simulator = Accidents()
