r"""The Korteweg-de Vries equation on a ring: waves that break up into solitons, and keep all they began with.

    du/dt = -6 u du/dx - delta^2 d^3u/dx^3,     0 <= x < L,  0 <= t <= T,     u(x, 0) = A f(x).

A soliton of speed c is u = c/2 sech^2(sqrt(c) (x - c t) / (2 delta)): taller ones are narrower and faster, and pass
through others unchanged. The means of u and of u^2 do not change. Pseudo-spectral, exponential time differencing;
products cut at two thirds of the highest wave number.

Good values: delta from 0.8 to 1.2 and A from 0.2 to 0.4 with L = 20, T = 4, 128 points and smooth f. In 512 draws of
the prior, halving the step changed u by less than 4e-5 of its norm and doubling the points by less than 3e-5, and both
by less than 1e-8 in the median; the mean of u^2 moved by less than 5e-6 of itself. Errors grow fast with height: with A
up to 0.5, halving steps of 0.0025 changed u by 5e-4 in the worst of 512 draws.

References:
    | Interaction of "Solitons" in a Collisionless Plasma and the Recurrence of Initial States (Zabusky & Kruskal,
      1965), https://doi.org/10.1103/PhysRevLett.15.240
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

LONGEST = 0.002  # of a step


class KortewegDeVries(Evolution):
    """The Korteweg-de Vries equation.

    Args:
        points: Of the ring.
        length: L.
        times: Of the frames, increasing from 0 on.
        initial: f.
        dispersion: Law of delta; even from 0.8 to 1.2 where left out.
        amplitude: Law of A; even from 0.2 to 0.4 where left out.
        longest: Longest step.
    """

    name = "korteweg_de_vries"
    block = 256

    def __init__(
        self,
        points: int = 128,
        length: float = 20.0,
        times: Sequence[float] = (0.0, 1.0, 2.0, 3.0, 4.0),
        initial: Start | None = None,
        dispersion: td.Distribution | None = None,
        amplitude: td.Distribution | None = None,
        longest: float = LONGEST,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points,), (length,)), tuple(times), longest
        self.initial = initial or RandomField(1.0, tau=20.0, alpha=8.0)
        self.random = self.initial.random
        self.prior = Prior(
            dispersion=dispersion or td.Uniform(0.8, 1.2),
            amplitude=amplitude or td.Uniform(0.2, 0.4),
        )
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        shape = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        return {"initial": shape * column(theta, self.prior, "amplitude", shape)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        modes = self.grid.transformed(given["initial"].double())
        kept, slope = self.grid.kept.to(theta.device), self.grid.slope(0).to(theta.device)
        linear = -column(theta.double(), self.prior, "dispersion", modes).square() * slope**3

        def rest(v: Tensor) -> Tensor:
            return -3 * slope * kept * self.grid.transformed(self.grid.back(v * kept).square())

        return self.grid.back(solve(modes, linear, rest, self.times, longest=self.longest))

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        delta = column(theta, self.prior, "dispersion", field)
        return -3 * self.grid.derivative(field.square(), -1) - delta.square() * self.grid.derivative(field, -1, 3)


simulator = KortewegDeVries()
