# An equation with your own solver, for surrogates and sensors. Copy it, change the five parts: sciinf check heat.py
import numpy as np
import torch

from sciinf import Prior, Uniform
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField


class Heat(Evolution):
    """du/dt = D d^2u/dx^2 - g u on a ring; an equation without time, or of another kind, is a `FieldEquation`."""

    name = "heat"

    def __init__(self, points=64, times=(0.0, 0.25, 0.5, 0.75, 1.0)):  # 1. where and when solutions are kept
        self.grid, self.times, self.random = BoxGrid((points,), (1.0,)), tuple(times), True
        self.prior = Prior(D=(Uniform(0.005, 0.05), "m^2/s"), g=(Uniform(0.0, 1.0), "1/s"))  # 2. what you want to know
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid, {"u": "K"})

    def start(self, theta, *, generator):  # 3. what solutions start from, name -> (batch, channel, *space)
        return {"initial": RandomField(1.0).draw(len(theta), 1, self.grid, generator=generator)}  # or not at random

    def solve(self, theta, given):  # 4. the solver, any program: -> (batch, time, channel, *space)
        rows = zip(theta.tolist(), given["initial"][:, 0].double().numpy(), strict=True)
        return torch.stack([torch.from_numpy(self.one(d, g, u)) for (d, g), u in rows])[:, :, None]

    def one(self, d, g, u):
        steps = 2_000  # a second, stable for D up to a quarter of steps / points^2
        frames, taken = [], 0
        for t in self.times:
            for _ in range(round(t * steps) - taken):
                u = u + (d * (np.roll(u, 1) - 2 * u + np.roll(u, -1)) * len(u) ** 2 - g * u) / steps
            frames, taken = [*frames, u], round(t * steps)
        return np.stack(frames)

    def rate(self, field, theta):  # 5. du/dt of frames, in torch: residuals are made of it
        d, g = column(theta, self.prior, "D", field), column(theta, self.prior, "g", field)
        return d * self.grid.derivative(field, -1, 2) - g * field


simulator = Heat()
