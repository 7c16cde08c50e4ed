"""A posterior whose density is written down, to stand where a learned one does."""

from __future__ import annotations

import pytest
import torch

from sciinf.core import Draws, Observable, Posterior


class Known(Posterior):
    """The same laws of theta for every observation: an equal mixture of normals, or of Student-t laws.

    Args:
        prior: The prior it pretends to have been learned for.
        means: One (D,) for each component.
        root: A square root of every component's covariance, (D, D).
        freedom: Degrees of freedom; None for normals.
        wrong: Added to the log density, to plant a fault.
    """

    def __init__(self, prior, means, root, *, freedom=None, wrong=0.0):
        self.name, self.digest, self.trained_on = "known", f"{means}{root}{freedom}", frozenset(["store"])
        self.prior, self.observables = prior, {"x": Observable((5,), "m", ("time",))}
        self.means, self.root = torch.as_tensor(means).double(), torch.as_tensor(root).double()
        self.freedom, self.wrong = freedom, wrong

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def draw_batched(self, x, n, *, generator):
        shape = (n, len(next(iter(x.values()))))
        chosen = torch.randint(len(self.means), shape, generator=generator)
        noise = torch.randn(*shape, len(self.prior), generator=generator, dtype=torch.float64)
        if self.freedom is not None:
            chi2 = torch.randn(*shape, self.freedom, generator=generator, dtype=torch.float64).square().sum(-1)
            noise = noise / (chi2 / self.freedom).sqrt()[..., None]
        return (self.means[chosen] + noise @ self.root.T).float()

    def log_prob_batched(self, theta, x):
        away = theta.double()[..., None, :] - self.means
        square = (away @ torch.linalg.inv(self.root).T).square().sum(-1)
        d = len(self.prior)
        half = torch.tensor(d / 2, dtype=torch.float64)
        if self.freedom is None:
            each = -0.5 * square - half * torch.log(torch.tensor(2 * torch.pi))
        else:
            v = torch.tensor(float(self.freedom), dtype=torch.float64)
            each = torch.lgamma(v / 2 + half) - torch.lgamma(v / 2) - half * (v * torch.pi).log()
            each = each - (v / 2 + half) * torch.log1p(square / v)
        log_q = each.logsumexp(-1) - torch.tensor(float(len(self.means))).log() - torch.linalg.slogdet(self.root)[1]
        return log_q + self.wrong

    def features(self, x):
        return next(iter(x.values())).float()


@pytest.fixture(scope="session")
def known():
    return Known
