"""The Nile's level as a process of which a filter may only know how to move, and how to weigh it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from reporting import SIMULATORS
from torch import Tensor

from sciinf import load_simulator, wrappers
from sciinf.simulators.dynamics.state_space import StateSpace, Theta, Time, duration

MEAN, SD = 1000.0, 500.0  # as simulators/nile.py has them
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Level(StateSpace):
    """A random walk seen with noise."""

    latent = {"level": "1e8 m3"}

    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> Tensor:
        """The first level."""
        return MEAN + SD * torch.randn(rows, 1, generator=generator)

    def advance(self, theta: Theta, state: Tensor, start: Time, stop: Time, *, generator: torch.Generator) -> Tensor:
        """That of a later year."""
        sd = theta["sd_level"] * duration(start, stop, state).sqrt()
        return torch.addcmul(state, sd[:, None], torch.randn(state.shape, generator=generator))

    def observe(self, theta: Theta, state: Tensor, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The volume of one year."""
        return {"volume": state[:, 0] + theta["sd_noise"] * torch.randn(len(state), generator=generator)}

    def log_observe(self, theta: Theta, state: Tensor, x: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Its log density."""
        z = (x["volume"] - state[:, 0]) / theta["sd_noise"]
        return {"volume": -0.5 * z.square() - theta["sd_noise"].log() - _HALF_LOG_2PI}


def nile_by_both(particles: int | None = None) -> tuple[Any, Any, dict[str, Tensor]]:
    """The simulator with the exact likelihood, one that has particles, and the record."""
    exact: Any = load_simulator(SIMULATORS / "nile.py")
    estimated: Any = wrappers.state_space(
        Level(), exact.prior, exact.times, exact.observables, particles=particles, name="nile_by_particles"
    )
    record = {name: value[None] for name, value in exact.observe(SIMULATORS / "nile_1871.csv").items()}
    return exact, estimated, record
