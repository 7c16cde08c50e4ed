r"""The Kuramoto-Sivashinsky equation on a ring: flame fronts that wrinkle, and soon chaos.

    du/dt = -u du/dx - d^2u/dx^2 - nu d^4u/dx^4,     0 <= x < L,  0 <= t <= T,     u(x, 0) = A f(x).

Waves exp(ikx) grow at the rate k^2 - nu k^4 until the first term hands their energy down to shorter ones. Pseudo-
spectral, exponential time differencing; products cut at two thirds of the highest wave number.

Good values: L from 22 to 32 with 128 points, up to 64 with 256; nu near 1, T up to 20. In 256 and more draws of the
prior each, at L = 22, 32 and 64, halving the step changed u by less than 5e-5 of its norm and doubling the points by
less than 1e-7. Chaos multiplies such errors: with T = 40 at L = 32, halving the step changed u by 5e-4 in the worst of
256 draws.

References:
    | Nonlinear Analysis of Hydrodynamic Instability in Laminar Flames, I (Sivashinsky, 1977),
      https://doi.org/10.1016/0094-5765(77)90096-0
    | Fourth-Order Time-Stepping for Stiff PDEs (Kassam & Trefethen, 2005), https://doi.org/10.1137/S1064827502410633
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
from sciinf.simulators.dynamics.spectral import solve

LONGEST = 0.025  # of a step


class KuramotoSivashinsky(Evolution):
    """The Kuramoto-Sivashinsky equation.

    Args:
        points: Of the ring.
        length: L.
        times: Of the frames, increasing from 0 on.
        initial: f.
        viscosity: Law of nu; about 1 within a fifth where left out.
        amplitude: Law of A; even from 0.5 to 1.5 where left out.
        longest: Longest step.
    """

    name = "kuramoto_sivashinsky"
    block = 256

    def __init__(
        self,
        points: int = 128,
        length: float = 32.0,
        times: Sequence[float] = tuple(2.0 * k for k in range(11)),
        initial: Start | None = None,
        viscosity: td.Distribution | None = None,
        amplitude: td.Distribution | None = None,
        longest: float = LONGEST,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points,), (length,)), tuple(times), longest
        self.initial = initial or RandomField(1.0, tau=30.0, alpha=8.0)
        self.random = self.initial.random
        self.prior = Prior(
            viscosity=viscosity or td.LogNormal(0.0, 0.2),
            amplitude=amplitude or td.Uniform(0.5, 1.5),
        )
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        shape = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        return {"initial": shape * column(theta, self.prior, "amplitude", shape)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        modes = self.grid.transformed(given["initial"].double())
        kept, slope, squared = (
            part.to(theta.device) for part in (self.grid.kept, self.grid.slope(0), self.grid.squared)
        )
        linear = squared - column(theta.double(), self.prior, "viscosity", modes) * squared.square()

        def rest(v: Tensor) -> Tensor:
            return -0.5 * slope * kept * self.grid.transformed(self.grid.back(v * kept).square())

        return self.grid.back(solve(modes, linear, rest, self.times, longest=self.longest))

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        nu = column(theta, self.prior, "viscosity", field)
        straight = -self.grid.derivative(field, -1, 2) - nu * self.grid.derivative(field, -1, 4)
        return straight - 0.5 * self.grid.derivative(field.square(), -1)


simulator = KuramotoSivashinsky()
