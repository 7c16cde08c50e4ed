"""A narrow linear model, its exact posterior, and the density that rounds of simulations for it would teach."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import distributions as td
from untrained import Untrained

from sciinf.core import Density, Draws, Fit, Observable, Posterior, Prior, Simulator
from sciinf.posteriors.around import Law, Mixture
from sciinf.posteriors.refined import Refined
from sciinf.posteriors.round_laws import widths

PRIOR = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
SEEN = {"x": Observable((2,))}
TILT = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
X = {"x": torch.tensor([[0.6, -0.4]])}
NOISE = 0.1
RECORD = {"store": {"digest": "d", "seed": 0, "used": 1, "rows": 1}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(x, noise=NOISE):
    """Mean (n, 2) and covariance (2, 2) of the posterior under the prior."""
    a = TILT.double()
    covariance = torch.linalg.inv(a.T @ a / noise**2 + torch.eye(2, dtype=torch.float64))
    return x.double() @ a @ covariance / noise**2, covariance


class Narrow(Simulator):
    """x = A theta + 0.1 noise; raises KeyboardInterrupt in its `stop`-th batch."""

    name, block, observables, prior = "narrow", 100, SEEN, PRIOR

    def __init__(self, stop=None):
        self.stop, self.calls = stop, 0

    def __call__(self, theta, *, generator):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return {"x": theta @ TILT.to(theta).T + NOISE * torch.randn(theta.shape, generator=generator)}


class Wrong(Posterior):
    """Normal with the exact covariance of `Narrow`, its middle off by some sds and its width by a factor."""

    name, prior, observables, trained_on = "wrong", PRIOR, SEEN, frozenset()

    def __init__(self, off, width):
        self.off, self.width, self.digest = off, width, f"wrong by {off} and {width}"

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(PRIOR.names, PRIOR.units, theta, torch.zeros(n, dtype=torch.float64))

    def draw_batched(self, x, n, *, generator):
        mean, covariance = exact(x["x"])
        noise = torch.randn(n, len(mean), 2, generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance)
        return (mean + self.off * covariance.diagonal().sqrt() + self.width * noise @ factor.T).float()

    def log_prob_batched(self, theta, x):
        raise NotImplementedError

    def features(self, x):
        return x["x"]


class Exact(Untrained):
    """What is learned under a mixture of normal laws, exactly: a mixture again."""

    prior, observables = PRIOR, SEEN

    def __init__(self, mixture):
        super().__init__()
        self.mixture = mixture

    def condition(self, x):
        return Laws(self.mixture, x["x"].double())


class Laws(Density):
    def __init__(self, mixture, x):
        a, self.parts = TILT.double(), []
        for weight, law in mixture.parts:
            prior = torch.cholesky_inverse(law.factor)
            covariance = torch.linalg.inv(a.T @ a / NOISE**2 + prior)
            mean = (x @ a / NOISE**2 + prior @ law.centre) @ covariance
            spread = a @ law.factor @ law.factor.T @ a.T + NOISE**2 * torch.eye(2).double()
            share = td.MultivariateNormal(law.centre @ a.T, spread).log_prob(x) + math.log(weight)
            self.parts.append((share, td.MultivariateNormal(mean, covariance)))
        self.shares = torch.stack([share for share, _ in self.parts], dim=-1).log_softmax(-1)

    def sample(self, n, *, generator):
        which = torch.multinomial(self.shares.exp(), n, replacement=True, generator=generator).T
        noise = torch.randn(n, len(self.shares), 2, generator=generator, dtype=torch.float64)
        each = torch.stack([law.loc + noise @ law.scale_tril[0].T for _, law in self.parts])
        return each.gather(0, which[None, ..., None].expand(1, *which.shape, 2))[0].float()

    def log_prob(self, theta):
        logs = [law.log_prob(theta.double()) for _, law in self.parts]
        return (torch.stack(logs, dim=-1) + self.shares).logsumexp(-1)


def exactly_refined():
    """A refined posterior of which every part is exact, its laws beside the answer."""
    z = Wrong(0.7, 1.2).draw_batched(X, 20_000, generator=generator())[:, 0].double()
    laws = [(weight, Law.around(z, wider, normal=True)) for weight, wider in widths(2)]
    mixture = Mixture(PRIOR, laws, {})
    fit = Fit(Exact(mixture), "digest", {"name": "narrow"}, RECORD, Path())
    return Refined(fit, mixture, laws[0][1], X, frozenset())


def fit_of(posterior):
    return Fit(posterior.local.estimator, "digest", {"name": "narrow"}, RECORD, Path())
