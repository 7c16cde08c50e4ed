"""Networks are scaled to what held-out rows bear out."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import distributions as td

from sciinf.core import Batch, Observable, Prior
from sciinf.training.estimators.matching import Matching
from sciinf.training.estimators.score import Score

PRIOR = Prior(mu=td.Normal(0.0, 1.0))
OBSERVABLES = {"x": Observable((2,))}


def rows(n, seed, bent):
    """mu ~ N(0, 1); x = (mu, mu^2) + noise, or both mu."""
    source = torch.Generator().manual_seed(seed)
    theta = PRIOR.sample(n, generator=source)
    x = torch.cat([theta, theta**2 if bent else theta], dim=1)
    return Batch(theta, {"x": x + 0.5 * torch.randn(n, 2, generator=source)})


@cache
def descended(kind, bent):
    data = rows(2_000, 1, bent)
    estimator = kind(PRIOR, OBSERVABLES, hidden=32, blocks=1, seed=3)
    estimator.standardise(lambda: iter([data]))
    source, descent = torch.Generator().manual_seed(0), torch.optim.Adam(estimator.parameters(), 3e-3)
    for _ in range(300):
        descent.zero_grad()
        estimator.loss(data, generator=source).mean().backward()
        descent.step()
    return estimator


def trained(kind, bent, noise=0.0):
    """An estimator after some descent; its last weights are then disturbed."""
    estimator, source = copy.deepcopy(descended(kind, bent)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in (estimator.network.leave, estimator.network.beside):
            layer.weight.add_(noise * torch.randn(layer.weight.shape, generator=source))
    return estimator


def held_out_loss(estimator, bent):
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        return float(estimator.loss(rows(8_000, 8, bent), generator=source).mean())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Score, Matching])
@pytest.mark.parametrize("bent", [False, True], ids=["Gaussian", "bent"])
def test_the_share_is_the_one_of_least_loss_on_rows_never_seen(kind, bent):
    # The Gaussian task leaves nothing to learn, and the network is noise alone; the bent one leaves much of it.
    estimator = trained(kind, bent, noise=0.2)
    before = held_out_loss(estimator, bent)
    share = estimator.adjust(lambda: iter([rows(1_000, 2, bent)]))["share"]
    best = held_out_loss(estimator, bent)
    assert (share > 0.28) == bent
    assert best < before
    for factor in (0.7, 1.3):
        other = copy.deepcopy(estimator)
        other.network.scale(factor)
        assert held_out_loss(other, bent) > best or not bent


@pytest.mark.slow
def test_a_handful_of_rows_leaves_the_network_all_but_as_it_is():
    estimator = trained(Score, bent=True)
    assert estimator.adjust(lambda: iter([rows(3, 2, True)]))["share"] > 0.7


def test_a_network_that_gives_nothing_stays_finite():
    estimator = Score(PRIOR, OBSERVABLES, hidden=8, blocks=1)
    estimator.network.scale(0.0)
    estimator.adjust(lambda: iter([rows(100, 2, False)]))
    assert all(bool(value.isfinite().all()) for value in estimator.parameters())


def test_without_the_linear_guess_nothing_is_scaled():
    estimator = Score(PRIOR, OBSERVABLES, linear=False)
    before = estimator.network.leave.weight.clone()
    assert estimator.adjust(lambda: iter([])) == {}
    assert torch.equal(estimator.network.leave.weight, before)
