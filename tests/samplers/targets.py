"""Targets whose law is known, and statistics that tell draws of it from others."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from scipy import stats

from sciinf.simulators.samplers import Hamiltonian, Langevin, Slice
from sciinf.simulators.samplers.chains import effective_sample_size

SCORED = Langevin(150)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def from_score(log_density, start, n, *, generator, **rest):
    """Langevin, of whose target only the score is known."""

    def score(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(log_density(x).sum(), x)[0]

    return SCORED.draw_from_score(score, start, n, generator=generator, **rest)


DRAW = {  # sampler, and draws per chain to take from it in most tests
    "hamiltonian": (Hamiltonian(120).draw, 60),
    "hamiltonian, scales": (Hamiltonian(120, dense=False).draw, 60),
    "langevin": (Langevin(150).draw, 150),
    "langevin, score": (from_score, 150),
    "slice": (Slice(15).draw, 30),
    "slice, scales": (Slice(15, dense=False).draw, 40),
    "slice, random": (Slice(15, random_directions=True).draw, 40),
}


class Gaussians:
    """Three of them, of scales 0.001, 1 and 1000, correlated, away from 0."""

    def __init__(self, dim):
        root = normal(3, dim, dim, seed=dim)
        scale = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
        covariance = root @ root.mT / dim + 0.2 * torch.eye(dim, dtype=torch.float64)
        self.dim, self.covariance = dim, covariance * scale[:, None, None] ** 2
        self.mean = 3 * normal(3, dim, seed=dim + 1) * scale[:, None]
        self.root = torch.linalg.cholesky(self.covariance)
        self.whitener = torch.linalg.inv(self.root).mT

    def __call__(self, x):
        return -0.5 * self.whitened(x).square().sum(-1)

    def whitened(self, x):
        """Independent N(0, 1) in every dimension, if draws are right."""
        return ((x - self.mean)[..., None, :] @ self.whitener).squeeze(-2)

    def start(self, chains, seed=3):
        return self.mean + 2 * torch.einsum("bij,cbj->cbi", self.root, normal(chains, 3, self.dim, seed=seed))


BEND = torch.tensor([0.5, -0.4], dtype=torch.float64)
NARROW = torch.tensor([1.0, 0.7], dtype=torch.float64)


def bananas(x):
    """x_0 ~ N(0, 1) and x_1 | x_0 ~ N(b (x_0^2 - 1), s^2), of two bends b and widths s."""
    return -0.5 * x[..., 0].square() - 0.5 * ((x[..., 1] - BEND * (x[..., 0].square() - 1)) / NARROW).square()


@cache
def banana_cdf(target):
    """Distribution function of x_1, by quadrature over x_0."""
    grid, x = np.linspace(-8, 8, 801), np.linspace(-40, 40, 4001)
    weight = stats.norm.pdf(grid) * (grid[1] - grid[0])
    centre, width = float(BEND[target]) * (grid**2 - 1), float(NARROW[target])
    values = (stats.norm.cdf((x[:, None] - centre) / width) * weight).sum(-1)
    return lambda at: np.interp(at, x, values)


def worth(draws):
    """Effective sample size of draws, (n, chains, batch, D), and of their distance to the median, the lesser."""
    folded = (draws - draws.flatten(0, 1).median(dim=0).values).abs()
    return torch.minimum(effective_sample_size(draws), effective_sample_size(folded))


def p_value(draws, cdf):
    """Kolmogorov and Smirnov's, of draws (n, chains) worth as many independent ones as their effective sample size."""
    n = float(worth(draws[..., None, None]))
    distance = stats.kstest(draws.flatten().numpy(), cdf).statistic
    return float(stats.kstwobign.sf(math.sqrt(n) * distance))


def z_scores(values, expected):
    """How many of its standard errors the mean of values (n, chains, batch, K) is away, (batch, K)."""
    error = (values.flatten(0, 1).var(dim=0) / effective_sample_size(values)).sqrt()
    return (values.flatten(0, 1).mean(dim=0) - expected) / error


def is_standard_normal(w, *, least=1e-6, most=5.0):
    """Whether draws (n, chains, batch, D) are of N(0, I), by every moment to the second and by every marginal.

    A false alarm has a probability of 6e-7 in every moment and 1e-6 in every marginal: below 2e-4 in three targets of
    ten dimensions.
    """
    first, second = torch.triu_indices(w.shape[-1], w.shape[-1])
    product = w[..., first] * w[..., second]
    z = torch.cat([z_scores(w, 0.0), z_scores(product, (first == second).double())], dim=-1)
    if not bool((z.abs() < most).all()):
        return False
    marginals = w.permute(2, 3, 0, 1).flatten(0, 1)
    return all(p_value(one, stats.norm.cdf) > least for one in marginals)
