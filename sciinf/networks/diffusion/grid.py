r"""Grids of noise levels s_0 > s_1 > ... > s_N > 0 for solvers that go from noise to data.

| grid | levels |
|---|---|
| `Power` | s_i = (s_0^(1/rho) + i/N (s_N^(1/rho) - s_0^(1/rho)))^rho; rho = 7 as in EDM |
| `Geometric` | equal steps of log s: the limit of rho to infinity |
| `Clock` | equal steps of the path's own time |

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), equation 5,
      https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component
from sciinf.networks.diffusion.schedule import NoiseSchedule


class Grid(Component, ABC):
    """A rule for the spacing of noise levels."""

    @abstractmethod
    def levels(self, schedule: NoiseSchedule, steps: int) -> Float[Tensor, " levels"]:
        """N + 1 decreasing noise levels, from the path's highest to its lowest, in float64 on the CPU."""


class Power(Grid):
    """Equal steps of a root of the noise level.

    Args:
        rho: Degree of the root; steps are equal in s^(1/rho).

    Raises:
        ValueError: Unless rho is above 0.
    """

    def __init__(self, rho: float = 7.0) -> None:
        if not rho > 0:
            raise ValueError(f"Power needs rho above 0, got {rho}")
        self.rho = float(rho)

    def levels(self, schedule: NoiseSchedule, steps: int) -> Float[Tensor, " levels"]:
        first, last = (level ** (1 / self.rho) for level in (schedule.most, schedule.least))
        return torch.linspace(first, last, steps + 1, dtype=torch.float64) ** self.rho


class Geometric(Grid):
    """Equal steps of the logarithm of the noise level."""

    def levels(self, schedule: NoiseSchedule, steps: int) -> Float[Tensor, " levels"]:
        first, last = math.log(schedule.most), math.log(schedule.least)
        return torch.linspace(first, last, steps + 1, dtype=torch.float64).exp()


class Clock(Grid):
    """Equal steps of the path's own time."""

    def levels(self, schedule: NoiseSchedule, steps: int) -> Float[Tensor, " levels"]:
        first, last = schedule.span()
        return schedule.level(torch.linspace(last, first, steps + 1, dtype=torch.float64))
