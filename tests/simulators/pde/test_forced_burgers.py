"""Burgers' equation with random forcing, against its law where that is known and its calm twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributions as td

from sciinf import load_simulator
from simulators.pde.burgers import Burgers
from simulators.pde.forced_burgers import ForcedBurgers, simulator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_steepening_solutions_follow_their_law():
    """Of 4,000 solutions, the mean is within 5 standard errors in every direction, and covariances within 15 %.

    By chance less than once in 1,000.
    """
    equation = ForcedBurgers(points=16, times=(0.0, 0.3, 1.0), steepening=0.0, longest=0.1)
    theta = torch.tensor([[0.01, 0.7]], dtype=torch.float64)
    initial = equation.start(theta, generator=generator())["initial"]
    found = equation.solution(theta.repeat(4_000, 1), {"initial": initial.repeat(4_000, 1, 1)}, generator=generator(1))
    for frame, time in enumerate(equation.times[1:], 1):
        mean, covariance = equation.law(theta, initial, time)
        values, vectors = torch.linalg.eigh(covariance[0])
        moving = values > 1e-9 * values.max()  # the mean over the ring is not driven
        z = (found[:, frame, 0] - mean[0, 0]) @ vectors[:, moving] / values[moving].sqrt()
        assert float(z.mean(0).abs().max()) < 5 / 4_000**0.5
        assert torch.allclose(torch.cov(z.T), torch.eye(15, dtype=torch.float64), atol=0.15)
        earlier = equation.law(theta, initial, 0.8 * time)[0]
        assert float((found[:, frame, 0].mean(0) - earlier[0, 0]).abs().max()) > 0.03  # the fault: another time
    with pytest.raises(ValueError, match="without steepening only"):
        simulator.law(theta, initial, 1.0)


def test_hardly_driven_it_is_the_calm_equation():
    times, same = (0.0, 0.25, 0.5), {"viscosity": td.LogNormal(-4.6, 0.4)}
    forced = ForcedBurgers(64, times, forcing=td.Uniform(1e-9, 2e-9), **same)
    calm = Burgers(64, times, amplitude=td.Uniform(0.5, 1.0), **same)
    theta = forced.prior.sample(8, generator=generator())
    initial = forced.start(theta, generator=generator(1))
    one, two = forced.solution(theta, initial, generator=generator(2)), calm.solve(theta, initial)
    assert float((one - two).norm() / two.norm()) < 1e-4
    still = ForcedBurgers(64, times, steepening=0.0, forcing=td.Uniform(1e-9, 2e-9), **same)
    other = still.solution(theta, initial, generator=generator(2))  # the fault: no steepening
    assert float((other - two).norm() / two.norm()) > 0.05


def test_it_is_told_apart_by_what_it_was_built_with():
    again: Any = load_simulator(Path(__file__).parents[3] / "simulators" / "pde" / "forced_burgers.py")
    assert again.settings() == simulator.settings()
    assert ForcedBurgers(steepening=0.5).settings() != simulator.settings()
