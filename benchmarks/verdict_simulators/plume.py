"""A plume that drifts and spreads around a ring: the equation whose surrogate stands in for it in `verdicts`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf import Prior, Uniform
from sciinf.core import X
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.grid import BoxGrid

POINTS = 32
WAVES = (1.0, 0.8, 0.6, 0.4)  # amplitudes of the first four waves of the beginning


class Plume(Evolution):
    """du/dt = D d^2u/dx^2 - c du/dx on a ring of length 1, from a known peak. It is solved exactly, wave by wave."""

    name = "verdict_plume"
    random = False

    def __init__(self) -> None:
        self.grid, self.times = BoxGrid((POINTS,), (1.0,)), (0.0, 0.5, 1.0)
        self.prior = Prior(D=(Uniform(0.001, 0.02), "m^2/s"), c=(Uniform(0.1, 0.8), "m/s"))
        self.given, self.observables = described({"initial": (1,)}, 3, 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"initial": self.solve(theta.double(), {})[:, 0]}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        at = torch.arange(POINTS, dtype=torch.float64) / POINTS
        times = torch.tensor(self.times, dtype=torch.float64)[:, None]
        spread, speed = theta.double()[:, :1, None], theta.double()[:, 1:, None]
        found = torch.zeros(len(theta), len(self.times), POINTS, dtype=torch.float64)
        for k, size in enumerate(WAVES, start=1):
            wave = 2 * math.pi * k
            found += size * (-spread * wave**2 * times).exp() * (wave * (at - speed * times)).cos()
        return found[:, :, None]

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        spread, speed = column(theta, self.prior, "D", field), column(theta, self.prior, "c", field)
        return spread * self.grid.derivative(field, -1, 2) - speed * self.grid.derivative(field, -1, 1)


simulator = Plume()
