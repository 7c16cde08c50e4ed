"""An equation that is told at points and whose solution is known: a wave that decays on a ring."""

from __future__ import annotations

import math

import torch
from torch import distributions as td

from sciinf.core import Prior
from sciinf.lab.point_equation import AtPoints, Unsolved
from sciinf.simulators.dynamics.field_equation import FieldEquation, described
from sciinf.simulators.dynamics.grid import BoxGrid

WAVE = 2 * math.pi


def residual(self, u, at, theta):
    return u.slope[..., 0] - self.speed * theta["nu"] * u.bend[..., 1]


def edge(self, u, at, theta):
    return u.value - theta["size"] * (WAVE * at[:, 1:]).sin()


def told(self, speed):
    self.speed, self.grid, self.times = speed, BoxGrid((16,), (1.0,)), (0.0, 0.5, 1.0)
    self.prior = Prior(nu=td.Uniform(0.005, 0.05), size=td.Uniform(0.5, 1.5))
    self.given, self.observables = described({}, 3, 1, self.grid)


class Ring(FieldEquation, AtPoints):
    """du/dt = nu d^2u/dx^2, u = size sin(2 pi x) at t = 0; the equation is told with nu times `speed`."""

    name, block, random = "ring", 256, False

    def __init__(self, speed: float = 1.0) -> None:
        told(self, speed)

    residual_at, edge_at = residual, edge

    def start(self, theta, *, generator):
        return {}

    def solve(self, theta, given):
        t, x = torch.tensor(self.times).double(), self.grid.coordinates[0]
        nu, size = theta.double().T[:, :, None, None]
        return (size * (-nu * WAVE**2 * t[:, None]).exp() * (WAVE * x).sin())[:, :, None]

    def residual(self, trajectory, theta, given):
        raise NotImplementedError


class Unknown(Unsolved):
    """The same, and nobody has a solver."""

    name, block = "unknown", 256

    def __init__(self, speed: float = 1.0) -> None:
        told(self, speed)

    residual_at, edge_at = residual, edge
