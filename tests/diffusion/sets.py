"""Sets of observations of a Gaussian whose posteriors are known."""

from __future__ import annotations

import torch

from sciinf.networks.diffusion.composition import MultivariateNormals


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(dim, n):
    """Prior, singles and posterior of n observations of N(theta, V), theta off the origin."""
    source = seeded(dim)
    a, b = (torch.randn(dim, dim, generator=source, dtype=torch.float64) for _ in range(2))
    eye = torch.eye(dim, dtype=torch.float64)
    prior = MultivariateNormals(0.3 * torch.ones(dim, dtype=torch.float64), eye + 0.1 * a @ a.T)
    noise = 0.5 * eye + 0.2 * b @ b.T
    theta = torch.full((dim,), 2.0, dtype=torch.float64)
    theta[1::2] = -1.5
    x = theta + torch.randn(n, dim, generator=source, dtype=torch.float64) @ torch.linalg.cholesky(noise).T
    pull, before = prior.natural()
    per = torch.linalg.inv(noise)
    covariance = torch.linalg.inv(before + per)
    single = MultivariateNormals((x @ per + pull) @ covariance, covariance.expand(n, dim, dim))
    together = torch.linalg.inv(before + n * per)
    exact = MultivariateNormals(together @ (pull + per @ x.sum(0)), together)

    return prior, single, exact


def scores_of(single):
    """Exact scores of the posteriors of some observations, each at points of its own."""

    def scores(y, level, some):
        spread = single.covariance[some] + level.double() ** 2 * torch.eye(y.shape[-1], dtype=torch.float64)
        return torch.einsum("jab,njb->nja", torch.linalg.inv(spread), single.mean[some] - y.double()).to(y)

    return scores


def off(draws, exact):
    """Norm of the means' error in posterior sds, and the ratios of sds."""
    sd = exact.covariance.diagonal().sqrt()
    return float(((draws.mean(0) - exact.mean) / sd).norm()), draws.std(0) / sd
