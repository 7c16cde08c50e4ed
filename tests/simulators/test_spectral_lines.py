"""Lines in a spectrum: expected counts and likelihood by hand, and the number that exists."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from sciinf.core import load_simulator

FILE = Path(__file__).parents[2] / "simulators" / "spectral_lines.py"
TWO = torch.tensor([[2.0, 5.0, 3.0, 6.5, math.nan, math.nan, 100.0, 40.0, math.nan, math.nan]], dtype=torch.float64)


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FILE)


@pytest.fixture(scope="module")
def module(simulator):
    return sys.modules[type(simulator).__module__]


def by_hand(background, lines):
    edges = np.linspace(2.0, 8.0, 61)
    return background + sum(s * np.diff(stats.norm.cdf(edges, e, 0.15)) for e, s in lines)


def test_expected_counts(module):
    found = module.expected(TWO)[0].numpy()
    assert found == pytest.approx(by_hand(5.0, [(3.0, 100.0), (6.5, 40.0)]))
    assert found.sum() == pytest.approx(60 * 5 + 140, abs=1e-6)
    none = torch.tensor([[0.0, 7.0, *[math.nan] * 8]], dtype=torch.float64)
    assert module.expected(none)[0].tolist() == pytest.approx([7.0] * 60)


def test_likelihood_is_of_poisson_counts(simulator):
    counts = torch.arange(60)[None] % 7
    truth = stats.poisson.logpmf(counts.numpy(), by_hand(5.0, [(3.0, 100.0), (6.5, 40.0)])).sum()
    assert float(simulator.log_likelihood(TWO, {"counts": counts})[0]) == pytest.approx(truth)
    worse = stats.poisson.logpmf(counts.numpy(), by_hand(5.0, [(3.0, 100.0)])).sum()  # the fault: a line less
    assert float(simulator.log_likelihood(TWO, {"counts": counts})[0]) != pytest.approx(worse, abs=0.1)


def test_simulated_counts_have_the_moments(simulator, module):
    # 20,000 simulations at one place: each mean and variance within 5 standard errors (false alarm 1e-4 for the 120)
    counts = simulator(TWO.float().expand(20_000, 10), generator=torch.Generator().manual_seed(0))["counts"].double()
    mean = module.expected(TWO)[0]
    assert bool(((counts.mean(0) - mean).abs() < 5 * (mean / 20_000).sqrt()).all())
    error = ((mean + 2 * mean**2) / 20_000).sqrt()
    assert bool(((counts.var(0) - mean).abs() < 5 * error).all())


def test_energies_are_in_order(simulator):
    theta = simulator.prior.sample(2_000, generator=torch.Generator().manual_seed(1))
    energy = theta[:, 2:6]
    assert bool((energy.nan_to_num(9.0).diff(dim=1) >= 0).all())
    assert bool(((~energy.isnan()).sum(1) == theta[:, 0]).all())
    assert bool((energy.isnan() == theta[:, 6:].isnan()).all())
