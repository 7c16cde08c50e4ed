"""Answers about the thrown ball, whose posterior is known, by likelihoods that may be wrong."""

from __future__ import annotations

import torch
from torch import distributions as td

from sciinf.core import Draws, Posterior
from sciinf.interfaces.answer import query
from sciinf.posteriors.reweighted import Reweighted

X_O = {"x": torch.tensor([2.9, 4.6, 5.1, 3.9, 1.2])}


class Exact(Posterior):
    """The exact posterior of the thrown ball, or one that is wider, in a network's place."""

    def __init__(self, ball, wider=1.0):
        self.ball, self.wider = ball, wider
        self.name, self.digest, self.trained_on = "known", f"{wider}", frozenset(["store"])
        self.prior, self.observables = ball.prior, ball.observables

    def law(self, x):
        mean, covariance = self.ball.exact(x)
        return td.MultivariateNormal(mean, self.wider**2 * covariance)

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def draw_batched(self, x, n, *, generator):
        law = self.law(x)
        noise = torch.randn(n, *law.mean.shape, generator=generator, dtype=torch.float64)
        return (law.mean + noise @ law.scale_tril[0].T).float()

    def log_prob_batched(self, theta, x):
        return self.law(x).log_prob(theta.double())

    def features(self, x):
        return x["x"].float()


def likelihood_of(first=5, scale=1.0, constant=0.0):
    """The ball's log-likelihood of its first numbers, with noise of another scale, less a constant."""
    times = torch.tensor([0.2, 0.6, 1.0, 1.4, 1.8], dtype=torch.float64)
    design = torch.stack([torch.ones(5), times, times.square() / 2], dim=1)

    def log_likelihood(theta, x):
        law = td.Normal(theta.double() @ design.T, 0.5 * scale)
        return law.log_prob(x["x"].double())[:, :first].sum(1) - constant

    return log_likelihood


def answer_of(ball, *, simulated=True, **wrong):
    ball.log_likelihood = likelihood_of(**wrong)
    return query(Reweighted(Exact(ball, 1.1), ball), X_O, simulator=ball if simulated else None, draws=2_000)


def findings_of(answer, name):
    return [one for one in answer.checks if one.name == name]
