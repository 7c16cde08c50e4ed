r"""The viscous Burgers equation on a ring: waves that steepen until viscosity holds them.

    du/dt = -u du/dx + nu d^2u/dx^2,     0 <= x < 1,  0 <= t <= T,     u(x, 0) = A f(x).

Pseudo-spectral, exponential time differencing; solved on twice as many points as are kept, and products cut at two
thirds of the highest wave number. The shortest thing there is is a front of width 4 nu / |u|.

Good values: nu from 0.005 to 0.1 with 128 points and |u| up to 1 (halving the step changes u by less than 1e-5 of its
norm, doubling the points by less than 1e-4); f a Gaussian random field (the default) or one sine (`Waves`).

References:
    | The partial differential equation u_t + u u_x = mu u_xx (Hopf, 1950), https://doi.org/10.1002/cpa.3160030302
    | Fourier Neural Operator for Parametric Partial Differential Equations (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
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
from sciinf.simulators.dynamics.spectral import refined, solve

FINER = 2  # times as many points as are kept
LONGEST = 0.005  # of a step
TOGETHER = 2**14  # points of the ring that a processor's thread solves at a time, for all of their modes in its cache


class Burgers(Evolution):
    """Burgers' equation.

    Args:
        points: Of the ring.
        times: Of the frames, increasing from 0 on.
        initial: f.
        viscosity: Law of nu; logarithms normal around log 0.032 with sd 0.5 where left out.
        amplitude: Law of A; even from 0.5 to 1 where left out.
        longest: Longest step.
    """

    name = "burgers"
    block = 1_024

    def __init__(
        self,
        points: int = 128,
        times: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        initial: Start | None = None,
        viscosity: td.Distribution | None = None,
        amplitude: td.Distribution | None = None,
        longest: float = LONGEST,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points,), (1.0,)), tuple(times), longest
        self.initial = initial or RandomField(1.0, tau=5.0, alpha=2.0)
        self.random = self.initial.random
        self.prior = Prior(
            viscosity=viscosity or td.LogNormal(-3.45, 0.5),
            amplitude=amplitude or td.Uniform(0.5, 1.0),
        )
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        shape = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        return {"initial": shape * column(theta, self.prior, "amplitude", shape)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        rows = max(TOGETHER // self.grid.shape[0], 1) * torch.get_num_threads()
        if theta.device.type != "cpu" or len(theta) <= rows:
            return self._solved(theta, given["initial"])
        return torch.cat(list(map(self._solved, theta.split(rows), given["initial"].split(rows))))

    def _solved(self, theta: Tensor, initial: Tensor) -> Tensor:
        fine = BoxGrid((FINER * self.grid.shape[0],), self.grid.lengths)
        modes = refined(self.grid.transformed(initial.double()), fine.shape[0], self.grid.shape[0])
        kept, slope = fine.kept.to(theta.device), fine.slope(0).to(theta.device)
        linear = -column(theta.double(), self.prior, "viscosity", modes) * fine.squared.to(theta.device)

        def rest(v: Tensor) -> Tensor:
            return -0.5 * slope * kept * fine.transformed(fine.back(v * kept).square())

        found = solve(modes, linear, rest, self.times, longest=self.longest)
        return fine.back(found)[..., ::FINER]

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        nu = column(theta, self.prior, "viscosity", field)
        return nu * self.grid.derivative(field, -1, 2) - 0.5 * self.grid.derivative(field.square(), -1)


simulator = Burgers()
