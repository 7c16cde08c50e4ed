"""The fitted Student-t law against scipy, and its draws against its density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from sciinf.posteriors import multivariate_t
from sciinf.posteriors.multivariate_t import MultivariateT, effective_size

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
ROOT = torch.tensor([[0.5, 0.0], [0.3, 0.1]], dtype=torch.float64)


def generator():
    return torch.Generator().manual_seed(0)


def reference(degrees):
    return stats.multivariate_t(MEAN.numpy(), (ROOT @ ROOT.T).numpy(), df=degrees)


def test_the_density_is_scipys():
    law, z = MultivariateT(MEAN, ROOT), MEAN + torch.randn(100, 2, generator=generator(), dtype=torch.float64)
    assert np.allclose(law.log_prob(z).numpy(), reference(multivariate_t.FREEDOM).logpdf(z.numpy()), rtol=1e-10)
    # planted fault: other degrees of freedom
    assert not np.allclose(law.log_prob(z).numpy(), reference(6).logpdf(z.numpy()), rtol=1e-3)


def test_draws_follow_the_density():
    """|L^-1 (z - m)|^2 / D has an F law with (D, v) degrees of freedom (KS, false alarm 1e-4)."""

    def p_value(z):
        u = torch.linalg.solve_triangular(ROOT, (z - MEAN).T, upper=False)
        return stats.kstest(u.square().sum(0).numpy() / 2, "f", args=(2, multivariate_t.FREEDOM)).pvalue

    assert p_value(MultivariateT(MEAN, ROOT).sample(20_000, generator=generator())) > 1e-4
    # planted fault: draws without the heavy tails
    normal = torch.randn(20_000, 2, generator=generator(), dtype=torch.float64)
    assert p_value(MEAN + normal @ ROOT.T) < 1e-4


def test_it_is_fitted_to_weighted_draws():
    """Weights move a unit normal's mean to (0.5, 0): at 100,000 draws four standard errors are below 0.02."""
    z = torch.randn(100_000, 2, generator=generator(), dtype=torch.float64)
    law = MultivariateT.fit(z, 0.5 * z[:, 0] - 7.0)
    assert torch.allclose(law.mean, torch.tensor([0.5, 0.0], dtype=torch.float64), atol=0.02)
    assert torch.allclose(law.root @ law.root.T, torch.eye(2, dtype=torch.float64), atol=0.04)
    # one draw with all the weight does not make it collapse
    assert float(MultivariateT.fit(z, torch.cat([torch.tensor([1e3]), torch.zeros(99_999)]).double()).root.det()) > 0.1


def test_the_effective_size_counts_equal_weights():
    assert effective_size(torch.zeros(10)) == pytest.approx(10)
    assert effective_size(torch.tensor([5.0, 5.0, -torch.inf])) == pytest.approx(2)
    assert effective_size(torch.full((3,), -torch.inf)) == 0.0
