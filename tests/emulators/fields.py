"""A small world to learn: decaying waves whose solution is known."""

from __future__ import annotations

import torch
from torch import distributions as td

from sciinf.core import Prior
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField


class Decay(Evolution):
    """du/dt = nu d^2u/dx^2 on a ring of length 1."""

    name = "decay"
    block = 256

    def __init__(self, times=(0.0, 0.5, 1.0), points=16, initial=None):
        self.grid, self.times = BoxGrid((points,), (1.0,)), tuple(times)
        self.initial = initial or RandomField(1.0, tau=5.0, alpha=2.5)
        self.random = self.initial.random
        self.prior = Prior(nu=td.Uniform(0.005, 0.05), amplitude=td.Uniform(0.5, 1.5))
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta, *, generator):
        shape = self.initial.draw(len(theta), 1, self.grid, generator=generator)
        return {"initial": shape * column(theta, self.prior, "amplitude", shape)}

    def solve(self, theta, given):
        modes = self.grid.transformed(given["initial"].double())
        nu = column(theta.double(), self.prior, "nu", modes)
        return torch.stack([self.grid.back(modes * (-nu * self.grid.squared * t).exp()) for t in self.times], 1)

    def rate(self, field, theta):
        return column(theta, self.prior, "nu", field) * self.grid.derivative(field, -1, 2)
