"""Estimators of parameters that take float64, seconds of GPS time, beside the same ones in numbers of order one."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf import Flow, Joint, Likelihood, Matching, Observable, Ratio, Score
from sciinf.core import Batch, Density, Potential, Prior

pytestmark = pytest.mark.usefixtures("coarse_densities")

GPS, WIDTH = 1126259462.4, 0.1
OBSERVABLES = {"x": Observable((3,), "", ("channel",))}


def exact(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


def prior(loc: float, scale: float) -> Prior:
    """One parameter that goes by its quantiles, one by the smooth map of its support."""
    return Prior(t=(td.Normal(exact(loc), scale), "s"), a=(td.StudentT(5.0, exact(loc), scale), "s"))


@pytest.mark.parametrize("kind", [Flow, Score, Matching, Ratio, Likelihood, Joint])
def test_an_estimator_sees_the_same_numbers_in_any_unit(kind):
    """Loss, densities and draws of one set of weights; only the map of `a` differs, which is standardised anyway."""
    far, near = kind(prior(GPS, WIDTH), OBSERVABLES), kind(prior(0.0, 1.0), OBSERVABLES)
    z = near.prior.sample(200, generator=torch.Generator().manual_seed(0)).double()
    x = {"x": z.sum(1, keepdim=True).float() + torch.randn(200, 3, generator=torch.Generator().manual_seed(1))}
    rows = Batch(GPS + WIDTH * z, x), Batch(z, x)
    losses, densities, draws = [], [], []
    for estimator, batch in zip((far, near), rows, strict=True):
        estimator.standardise(lambda batch=batch: iter([batch]))
        estimator.eval()
        with torch.no_grad():
            losses.append(estimator.loss(batch, generator=torch.Generator().manual_seed(2)))
            learned = estimator.condition({"x": x["x"][:1]})
            if isinstance(learned, Density):
                draws.append(learned.sample(50, generator=torch.Generator().manual_seed(3)))
                densities.append(learned.log_prob(batch.theta[:50, None]))
            elif isinstance(learned, Potential):
                densities.append(learned.log_likelihood(batch.theta[:50, None]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    shift = 2 * torch.tensor(WIDTH).log() if draws else torch.tensor(0.0)
    torch.testing.assert_close(densities[0] + shift, densities[1], rtol=1e-3, atol=1e-3, check_dtype=False)
    if draws:
        assert draws[0].dtype == torch.float64
        torch.testing.assert_close((draws[0] - GPS) / WIDTH, draws[1].double(), rtol=1e-3, atol=1e-3)
