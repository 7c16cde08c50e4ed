"""A simulator with parameters of every kind, its posterior by weights of prior draws, and answers of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sciinf import query
from sciinf.core import Answer, Choice, Counts, Draws, Each, LogNormal, Observable, Only, Prior, Simulator, Uniform, X
from sciinf.core.categories import categories_of
from sciinf.posteriors.learned import LearnedPosterior

DAYS = tuple(float(day) for day in range(1, 13))


class Burst(Simulator):
    """A decay or a wave, and steps: data of 12 days with noise of a tenth."""

    name = "burst"
    block = 4096
    observables = {
        "flux": Observable((12,), "mJy", ("time",), coords={"time": DAYS}, coord_units={"time": "d"}),
    }
    prior = Prior(
        model=Choice("decay", "wave"),
        steps=Counts(0, 2),
        height=(LogNormal(0.0, 0.3), "mJy"),
        period=Only(LogNormal(1.5, 0.3), "d", model="wave"),
        time=Each("steps", Uniform(1.0, 12.0), "d", increasing=True),
    )

    def means(self, theta: Tensor) -> Tensor:
        days, theta = torch.tensor(DAYS, dtype=torch.float64), theta.double()
        wave = torch.cos(2 * math.pi * days / theta[:, 3:4].nan_to_num(1.0))
        shape = torch.where(theta[:, :1] == 1, wave, torch.exp(-days / 4))
        steps = (days[None, None] > theta[:, 4:, None].nan_to_num(99.0)).double().sum(1)
        return theta[:, 2:3] * shape + 0.4 * steps

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        means = self.means(theta)
        return {"flux": (means + 0.1 * torch.randn(means.shape, generator=generator)).float()}


class ByWeights(LearnedPosterior):
    """Draws of the prior, resampled by a likelihood that is `flat` times as wide as the true one."""

    def __init__(self, simulator: Burst, flat: float = 4.0) -> None:
        self.simulator, self.flat = simulator, flat
        self.name, self.digest, self.prior = "amortised", f"by weights {flat}", simulator.prior
        self.observables, self.trained_on = simulator.observables, frozenset()
        self.theta = self.prior.sample(40_000, generator=torch.Generator().manual_seed(5))
        self.means = simulator.means(self.theta)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        each = []
        for one in x["flux"].double():
            log_weight = -0.5 * ((one - self.means) / (0.1 * self.flat)).square().sum(1)
            chosen = torch.multinomial(log_weight.softmax(0), n, replacement=True, generator=generator)
            each.append(self.theta[chosen])
        return torch.stack(each, dim=1)

    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        raise NotImplementedError

    def features(self, x: X) -> Tensor:
        return x["flux"].float()


def drawn(prior: Prior, n: int = 2_000, seed: int = 0, weighted: bool = False, **known: Any) -> Draws:
    """Draws of a prior, plain or with weights of an effective size of about a third."""
    generator = torch.Generator().manual_seed(seed)
    theta = prior.sample(n, generator=generator)
    log_weight = weighted * torch.randn(n, generator=generator, dtype=torch.float64)
    return Draws(prior.names, prior.units, theta, log_weight, categories=categories_of(prior), **known)


def answer_of_burst(**asked: Any) -> Answer:
    """An answer for a wave with one step, asked with the simulator."""
    simulator = Burst()
    theta = torch.tensor([[1.0, 1.0, 1.0, 5.0, 6.0, torch.nan]])
    x = simulator(theta, generator=torch.Generator().manual_seed(1))
    return query(ByWeights(simulator), {"flux": x["flux"][0]}, **{"simulator": simulator, "draws": 2_000, **asked})
