"""The fitted density is normalised, draws are of it, and it refuses data that have no density."""

from __future__ import annotations

import pytest
import torch

from sciinf.campaigns.densities import FittedDensity


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape):
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize("whole", [False, True])
def test_it_integrates_to_one(whole):
    """Of two numbers, the second of which follows the first: a sum over a fine grid, or over all pairs of integers."""
    noise = normal(100, 3)
    x = torch.stack([noise[:, 0], 0.8 * noise[:, 0] + noise[:, 1]], 1)
    x = (3 * x).round() if whole else x
    q = FittedDensity(x, noise[:, 2:])
    step = 1.0 if whole else 0.05
    axis = torch.arange(-20 if whole else -5, 20 if whole else 5, step, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = torch.cat([q.log_prob(some, torch.zeros(len(some), 1).double()).exp() for some in grid.split(5_000)]).sum()
    assert float(total) * step**2 == pytest.approx(1.0, abs=0.005)


def test_draws_are_of_it():
    """Importance weights of draws by the density of another fit have mean one: within 5 standard errors."""
    given = normal(400, 1)
    x = torch.cat([given + normal(400, 2), torch.poisson(given.exp(), generator=generator())], 1)
    one, other = FittedDensity(x[:200], given[:200]), FittedDensity(x[200:], given[200:])
    at = given.repeat(5, 1)
    drawn = one.sample(at, generator=generator(1))
    weight = torch.sigmoid(other.log_prob(drawn, at) - one.log_prob(drawn, at))
    back = other.sample(at, generator=generator(2))
    weight_back = torch.sigmoid(one.log_prob(back, at) - other.log_prob(back, at))
    error = float((weight.var() + weight_back.var()) / len(at)) ** 0.5
    assert abs(float(weight.mean() - weight_back.mean())) < 5 * error


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda e: e.clamp_min(0.0), "recur"),  # a number that is often exactly zero
        (lambda e: torch.cat([e, 1 - e.sum(1, keepdim=True)], 1), "follows from the others"),
        (lambda e: torch.cat([e[:, :1].cos(), e[:, :1].sin()], 1), "follows from the others"),
        (lambda e: e.sort(1).values, "sorted"),
    ],
)
def test_data_without_a_density_are_refused(make, words):
    x = make(normal(200, 2))
    with pytest.raises(ValueError, match=words):
        FittedDensity(x, normal(200, 1)).sample(normal(200, 1), generator=generator())
