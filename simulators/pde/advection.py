r"""Advection and diffusion on a ring: what is carried along, and fades.

    du/dt = -c du/dx + D d^2u/dx^2,     0 <= x < L,  0 <= t <= T,     u(x, 0) = A f(x).

Waves exp(ikx) are multiplied by exp(-(ick + D k^2) t), which is the solution: there are no steps.

Good values: any c and D that is not negative; what is between the points of the grid goes along as the sum of the
waves that the grid tells apart, so that fields should be smooth on it.

References:
    | Spectral Methods in MATLAB (Trefethen, 2000), https://doi.org/10.1137/1.9780898719598
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField, Start


class Advection(Evolution):
    """The equation of advection and diffusion.

    Args:
        points: Of the ring.
        length: L.
        times: Of the frames, increasing from 0 on.
        initial: f.
        speed: Law of c; even from -1 to 1 where left out.
        diffusivity: Law of D; of logarithms about that of 0.001 where left out.
        amplitude: Law of A; even from 0.5 to 1 where left out.
    """

    name = "advection"
    block = 4_096

    def __init__(
        self,
        points: int = 128,
        length: float = 1.0,
        times: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        initial: Start | None = None,
        speed: td.Distribution | None = None,
        diffusivity: td.Distribution | None = None,
        amplitude: td.Distribution | None = None,
    ) -> None:
        self.grid, self.times = BoxGrid((points,), (length,)), tuple(times)
        self.initial = initial or RandomField(1.0, tau=5.0, alpha=2.0)
        self.random = self.initial.random
        self.prior = Prior(
            speed=speed or td.Uniform(-1.0, 1.0),
            diffusivity=diffusivity or td.LogNormal(-6.9, 0.5),
            amplitude=amplitude or td.Uniform(0.5, 1.0),
        )
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        shape = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        return {"initial": shape * column(theta, self.prior, "amplitude", shape)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        modes = self.grid.transformed(given["initial"].double())[:, None]
        slope, squared = self.grid.slope(0).to(theta.device), self.grid.squared.to(theta.device)
        c, spread = (column(theta.double(), self.prior, name, modes) for name in ("speed", "diffusivity"))
        t = torch.tensor(self.times, dtype=torch.float64, device=theta.device)[:, None, None]
        return self.grid.back(modes * (-(c * slope + spread * squared) * t).exp())

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        c, spread = (column(theta, self.prior, name, field) for name in ("speed", "diffusivity"))
        return spread * self.grid.derivative(field, -1, 2) - c * self.grid.derivative(field, -1)


simulator = Advection()
