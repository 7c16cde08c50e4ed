"""Chains of a step are stopped when they have forgotten where they began, and not before."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.simulators.samplers.gibbs import run


def autoregression(rho, seed=0, batch=1):
    """Steps whose law is N(0, 1) at last, with correlation rho from one to the next."""
    source = torch.Generator().manual_seed(seed)
    return lambda z: rho * z + math.sqrt(1 - rho**2) * torch.randn(z.shape, generator=source, dtype=z.dtype)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("start", [-4.0, 0.0])
def test_chains_that_have_settled_are_stopped(seed, start):
    last, settled = run(autoregression(0.8, seed), torch.full((2_000, 1, 1), start).double(), lambda z: z, most=300)
    assert settled.converged
    assert 16 <= settled.iterations < 80
    assert abs(float(last.mean())) < 5 / math.sqrt(2_000)  # false alarms: 6e-7 each
    assert float(last.std()) == pytest.approx(1.0, abs=5 / math.sqrt(4_000))


@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["from a point", "from the right law"])
def test_chains_that_hardly_move_are_not(spread):
    start = spread * torch.randn(2_000, 3, 1, generator=torch.Generator().manual_seed(5)).double()
    _, settled = run(autoregression(0.9975), start, lambda z: z, most=100)
    assert not settled.converged
    assert settled.iterations == 100
    assert settled.correlation > 0.5


def test_chains_between_two_places_that_never_meet_are_not():
    start = torch.cat([torch.full((500, 1, 1), -5.0), torch.full((500, 1, 1), 5.0)]).double()
    side, step = start.sign(), autoregression(0.3)
    _, settled = run(lambda z: 5 * side + step(z - 5 * side), start, lambda z: z, most=60)
    assert not settled.converged
