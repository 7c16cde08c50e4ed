"""The bistable equation with random forcing, against its law where that is known, and walls that stand still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributions as td

from sciinf import load_simulator
from simulators.pde.forced_reaction_diffusion import ForcedReactionDiffusion, simulator

CALM = td.Uniform(1e-9, 2e-9)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_reaction_solutions_follow_their_law():
    """Of 4,000 solutions, the mean is within 5 standard errors in every direction, and covariances within 15 %.

    By chance less than once in 1,000.
    """
    equation = ForcedReactionDiffusion(points=16, times=(0.0, 0.3, 1.0), longest=0.1)
    theta = torch.tensor([[0.01, 0.0, 0.7]], dtype=torch.float64)
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
    with pytest.raises(ValueError, match="where growth is 0"):
        simulator.law(theta + 1.0, initial, 1.0)


def test_hardly_driven_an_even_field_follows_the_reaction_alone():
    equation = ForcedReactionDiffusion(16, (0.0, 0.5, 1.0), forcing=CALM)
    theta = equation.prior.sample(8, generator=generator()).double()
    before = torch.linspace(-1.2, 0.8, 8, dtype=torch.float64)
    found = equation.solution(theta, {"initial": before[:, None, None].expand(8, 1, 16)}, generator=generator(1))
    for frame, time in enumerate(equation.times):
        grown = (2 * theta[:, 1] * time).exp()
        true = before * (grown / (1 + before.square() * (grown - 1))).sqrt()  # of du/dt = r (u - u^3)
        assert torch.allclose(found[:, frame, 0], true[:, None].expand(8, 16), atol=1e-5)


def test_hardly_driven_walls_keep_their_width_and_place():
    """Two walls of width sqrt(2 D / r), half the ring apart: too far to draw each other."""
    equation = ForcedReactionDiffusion(128, (0.0, 1.0), forcing=CALM)
    theta = torch.tensor([[0.001, 4.0, 0.0]], dtype=torch.float64)
    width = (2 * theta[0, 0] / theta[0, 1]).sqrt()
    x = equation.grid.coordinates[0]
    wall = -((x - 0.25) / width).tanh() * ((x - 0.75) / width).tanh()
    wider = -((x - 0.25) / (2 * width)).tanh() * ((x - 0.75) / (2 * width)).tanh()
    for field, still in ((wall, True), (wider, False)):  # the second is the fault
        found = equation.solution(theta, {"initial": field[None, None]}, generator=generator())
        assert (float((found[0, 1, 0] - field).abs().max()) < 1e-3) is still


@pytest.mark.slow
def test_shorter_steps_tell_the_same_law():
    """Mean squares of 4,000 solutions agree within 5 standard errors; by chance less than once in 1,000 runs."""
    found = []
    for seed, longest in enumerate((0.02, 0.005)):
        equation = ForcedReactionDiffusion(16, (0.0, 0.1, 0.5), longest=longest)
        theta = equation.prior.sample(4_000, generator=generator())
        initial = equation.start(theta, generator=generator(1))
        found.append(equation.solution(theta, initial, generator=generator(2 + seed)))
    for frame in (1, 2):
        one, two = (u[:, frame].square().flatten(1).mean(1) for u in found)
        off = one - two
        assert abs(float(off.mean() / off.std())) < 5 / 4_000**0.5
    again = equation.solution(theta, initial, generator=generator(3))
    assert torch.equal(again, found[1])


def test_it_is_told_apart_by_what_it_was_built_with():
    again: Any = load_simulator(Path(__file__).parents[3] / "simulators" / "pde" / "forced_reaction_diffusion.py")
    assert again.settings() == simulator.settings()
    assert ForcedReactionDiffusion(longest=0.005).settings() != simulator.settings()
