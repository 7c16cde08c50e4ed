"""Every process, for the tests of the contract: one line each. And the plainest of all, which shows how one is made."""

from __future__ import annotations

import torch
from torch import nn

from sciinf.core import Observable, Prior, Simulator
from sciinf.core.prior import global_seed
from sciinf.emulators.processes import (
    Controlled,
    Fractional,
    Koopman,
    Latent,
    LearnedProcess,
    Linear,
    LinearGaussian,
    MarkovJump,
    NeuralSDE,
    Parallel,
    Process,
    SparseGP,
    UnitCircle,
)
from sciinf.lab import Interacting, PredictiveCoding


class Still(Process):
    """z_k ~ N(0, I) at each time by itself, and so is the posterior: N(m(h_k), s(h_k)^2)."""

    def __init__(self, states=2):
        self.states = states

    def build(self, sizes, *, seed):
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedStill(sizes, self.states)


class LearnedStill(LearnedProcess):
    def __init__(self, sizes, states):
        super().__init__()
        self.states = states
        self.head = Linear(sizes.features + sizes.context, 2 * states, scale=0.3)
        self.bias = nn.Parameter(torch.zeros(()))  # shared by all rows, with a prior N(0, 1)

    def posterior(self, series, *, generator):
        read = torch.cat([series.read, series.context[:, None].expand(-1, series.length, -1)], -1)
        mean, log_sd = self.head(read).chunk(2, -1)
        there = series.there[..., None]
        mean, log_sd = torch.where(there, mean + self.bias, 0.0), torch.where(there, log_sd, 0.0)
        noise = torch.randn(mean.shape, generator=generator)
        z = mean + log_sd.exp() * noise
        kl = (0.5 * ((2 * log_sd).exp() + mean.square() - 1) - log_sd).sum((1, 2))
        ratio = (0.5 * (z.square() - noise.square()) - log_sd).sum((1, 2))
        return Latent(z, kl, ratio)

    def prior(self, series, *, generator):
        return torch.randn(len(series), series.length, self.states, generator=generator)

    def shared(self):
        return 0.5 * self.bias.square()


PROCESSES = {
    "still": lambda: Still(2),
    "linear_gaussian": lambda: LinearGaussian(3),
    "koopman": lambda: Koopman(4, eigenvalues=UnitCircle(0.1)),
    "parallel": lambda: Parallel(2, width=6, recurrences=3, layers=2),
    "predictive_coding": lambda: PredictiveCoding(4, width=5, weight=0.5),
    "sparse_gp": lambda: SparseGP(2),
    "interacting": lambda: Interacting(3),
    "controlled": lambda: Controlled(2, weights=2, hidden=6, width=8),
    "controlled, weights kept": lambda: Controlled(2, weights=2, wander=False, hidden=6, width=8),
    "jump": lambda: MarkovJump(3, hidden=8),
    "neural sde": lambda: NeuralSDE(2, width=8),
    "fractional sde": lambda: NeuralSDE(1, noise=Fractional(8.0), steps=1, width=8),
}


class Drifting(Simulator):
    """An autoregression that a control pushes, seen at times of each row's own, some of it not at all."""

    name = "drifting"

    def __init__(self):
        from torch.distributions import Uniform

        self.prior = Prior(rate=Uniform(0.2, 1.0))
        self.observables = {
            "x": Observable((8, 2), dims=("time", "channel")),
            "x_mask": Observable((8,), dtype="bool", dims=("time",)),
            "x_times": Observable((8,), dtype="float64", dims=("time",)),
            "u": Observable((8, 1), dims=("time", "channel")),
        }

    def __call__(self, theta, *, generator):
        rows = len(theta)
        times = (0.2 + torch.rand(rows, 8, generator=generator, dtype=torch.float64)).cumsum(1)
        u = torch.randn(rows, 8, 1, generator=generator)
        state, found = torch.randn(rows, 2, generator=generator), []
        for k in range(8):
            if k:
                keep = (-theta[:, :1] * (times[:, k] - times[:, k - 1])[:, None]).exp().float()
                noise = torch.randn(rows, 2, generator=generator)
                state = keep * state + (1 - keep) * u[:, k - 1] + (1 - keep.square()).sqrt() * noise
            found.append(state + 0.1 * torch.randn(rows, 2, generator=generator))
        there = torch.rand(rows, 8, generator=generator) < 0.7
        x = torch.where(there[..., None], torch.stack(found, 1), 0.0)
        return {"x": x, "x_mask": there, "x_times": times, "u": u}
