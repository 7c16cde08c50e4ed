"""Sparse Gaussian processes: with the right factors the posterior is the exact one, correlations and all."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.processes import Series, Sizes
from sciinf.emulators.processes.sparse_gp import SparseGP

NOISE, LENGTH, COUNT = 0.4, 3.0, 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kernel(times, smoothness=1.5):
    far = (times[:, None] - times).abs() / LENGTH * (2 * smoothness) ** 0.5
    return {0.5: 1.0, 1.5: 1 + far, 2.5: 1 + far + far.square() / 3}[smoothness] * torch.exp(-far)


def known(spacing=1.0, smoothness=1.5, doubt=-20.0):
    """One process of a known length, seen with known noise: factors are what they should be."""
    process = SparseGP(1, spacing=spacing, length=LENGTH, smoothness=smoothness).build(Sizes(1, 0, 0), seed=0)
    with torch.no_grad():
        process.log_doubt.fill_(doubt)
        process.factor.direct.weight.copy_(torch.tensor([[NOISE**-2], [0.0]]))
        process.factor.direct.bias.copy_(torch.tensor([0.0, 1 / NOISE - 1]))
    return process


def record(rows, times=None):
    """Nine times, of which three in the middle are missing."""
    there = torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 1], dtype=torch.bool)
    x = torch.where(there, torch.tensor([0.3, -0.5, 0.8, 0, 0, 0, 1.4, 0.2, -0.9]), 0.0)
    when = None if times is None else times.float().expand(rows, -1)
    return Series(x.expand(rows, 9)[..., None], there.expand(rows, 9), torch.zeros(rows, 0), when), x.double(), there


def exact(times, x, there):
    """Mean and covariance of the path given what was seen, and the log likelihood."""
    whole = kernel(times)
    seen = whole[there][:, there] + NOISE**2 * torch.eye(int(there.sum()), dtype=torch.float64)
    gain = torch.linalg.solve(seen, whole[there]).T
    law = torch.distributions.MultivariateNormal(torch.zeros(len(seen), dtype=torch.float64), seen)
    return gain @ x[there], whole - gain @ whole[there], float(law.log_prob(x[there]))


def test_the_posterior_is_exact_and_the_bound_tight():
    """20,000 draws: 4.5 standard errors, some 60 numbers, a false alarm in about 2,000."""
    process, (series, x, there) = known(), record(COUNT)
    mean, covariance, log_likelihood = exact(torch.arange(9, dtype=torch.float64), x, there)
    with torch.no_grad():
        found = process.posterior(series, generator=generator())
    z = found.z[..., 0].double()
    assert float(((z.mean(0) - mean) / (covariance.diagonal() / COUNT).sqrt()).abs().max()) < 4.5
    error = ((covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()) / COUNT).sqrt()
    assert float(((torch.cov(z.T) - covariance) / error).abs().max()) < 4.5
    law = torch.distributions.Normal(z[:, there], NOISE)
    bounds = law.log_prob(x[there]).sum(1) - found.kl.double()
    assert abs(float(bounds.mean()) - log_likelihood) < 4.5 * float(bounds.std()) / COUNT**0.5 + 1e-4
    # the fault: each time by itself, as an encoder that draws z_t from its own law would have it
    assert float((torch.diag(covariance.diagonal()) - covariance).div(error).abs().max()) > 4.5


def test_fewer_points_give_a_lower_bound():
    series, x, there = record(COUNT)
    log_likelihood = exact(torch.arange(9, dtype=torch.float64), x, there)[2]
    gaps = []
    for spacing in (1.0, 2.0, 8.0):
        with torch.no_grad():
            found = known(spacing).posterior(series, generator=generator())
        law = torch.distributions.Normal(found.z[..., 0].double()[:, there], NOISE)
        gaps.append(log_likelihood - float((law.log_prob(x[there]).sum(1) - found.kl).mean()))
    assert gaps[0] < 0.05 < gaps[1] < gaps[2]


@pytest.mark.parametrize("smoothness", [0.5, 1.5, 2.5])
@pytest.mark.parametrize("spacing", [1.0, 4.0])
def test_the_prior_has_its_covariance_however_few_points_there_are(smoothness, spacing):
    """Of 20,000 draws at unequal times; 4.5 standard errors, 36 numbers, a false alarm in about 4,000."""
    times = torch.tensor([0.0, 0.4, 1.5, 1.6, 3.0, 5.5, 6.0, 9.0, 9.5], dtype=torch.float64)
    series = record(COUNT, times)[0]
    with torch.no_grad():
        z = known(spacing, smoothness).prior(series, generator=generator())[..., 0].double()
    covariance = kernel(times, smoothness)
    error = ((1 + covariance.square()) / COUNT).sqrt()
    assert float(((torch.cov(z.T) - covariance) / error).abs().max()) < 4.5


def test_lengths_are_as_uncertain_as_their_law():
    process = known(doubt=0.0)
    assert float(process.shared().detach()) == 0.0  # q is the prior
    with torch.no_grad():
        process.log_length.add_(1.0)
    assert float(process.shared().detach()) == pytest.approx(0.5)
    series = record(3)[0]
    one, two = (known(doubt=d).prior(series, generator=generator()) for d in (0.0, -20.0))
    assert not torch.allclose(one, two)


def test_what_is_asked_for_wrongly_is_said():
    with pytest.raises(ValueError, match="smoothness is 2"):
        SparseGP(smoothness=2)
    with pytest.raises(ValueError, match=r"spacing is 0\.5"):
        SparseGP(spacing=0.5)
