"""Simulators without noise, with always the same, or with random numbers of their own are told; others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from sciinf.core import Case, Finding, Observable, Prior, Simulator, X
from sciinf.diagnostics.noise import SimulatorNoise

THETA = torch.linspace(-1.0, 1.0, 40)[:, None]


class Line(Simulator):
    """mu + noise, five times."""

    name = "line"
    prior = Prior(mu=Normal(0.0, 1.0))
    observables = {"v": Observable((5,))}

    def __init__(self, noise: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self.noise = noise

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"v": self.noise(theta.expand(-1, 5), generator)}


def check_noise(simulator: Line) -> tuple[Finding, ...]:
    none: Any = None
    return SimulatorNoise()(Case(none, none, 0.9, simulator=simulator, theta=THETA))


def own(seed: int | None, size: float = 0.1) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Noise of numpy's generators, a new one for each call."""
    return lambda v, generator: v + size * torch.from_numpy(np.random.default_rng(seed).normal(size=v.shape))


@pytest.mark.parametrize("noise", [own(None), own(None, 1e-3), lambda v, generator: v + torch.rand(v.shape)])
def test_random_numbers_of_its_own_are_told(noise) -> None:
    (check,) = check_noise(Line(noise))
    assert check.level == "caution"
    assert "the same parameters and seed gave other data" in check.words


@pytest.mark.parametrize("noise", [own(0), lambda v, generator: v])
def test_no_noise_and_always_the_same_are_told(noise) -> None:
    (check,) = check_noise(Line(noise))
    assert check.level == "caution"
    assert "the posterior knows of none" in check.words


def rounded(v: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of the generator, and sums that are rounded otherwise each time."""
    return v + 0.1 * torch.randn(v.shape, generator=generator) + 1e-7 * torch.rand(v.shape)


@pytest.mark.parametrize(
    "noise",
    [
        lambda v, generator: v + 1e-4 * torch.randn(v.shape, generator=generator),
        lambda v, generator: (torch.rand(v.shape, generator=generator) < 1e-3).float(),
        rounded,
    ],
)
def test_a_sound_simulator_is_not_blamed(noise) -> None:
    """Not for small noise, rare counts that agree, or rounding."""
    assert check_noise(Line(noise)) == ()


def test_failures_are_no_noise() -> None:
    """Rows that fail in one of the simulations alone do not count."""

    def fails(v: Tensor, generator: torch.Generator) -> Tensor:
        data = v + torch.randn(v.shape, generator=generator)
        return torch.where(data > 1.5, torch.nan, data)

    assert check_noise(Line(fails)) == ()


def test_a_simulator_that_always_fails_there_says_nothing_of_noise() -> None:
    assert check_noise(Line(lambda v, generator: v * torch.nan)) == ()
