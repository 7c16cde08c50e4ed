r"""Flows of three families on one torus, each row another: which one, and its coefficients, are parameters.

    vorticity       dω/dt + u·∇ω + β v = ν Δω,                                      u = ∂ψ/∂y,  v = -∂ψ/∂x,  -Δψ = ω,
    shallow_water   dη/dt + ∂_x((1 + η) u) + ∂_y((1 + η) v) = 0,
                    du/dt + u u_x + v u_y - f v + g η_x = 0,   dv/dt + u v_x + v v_y + f u + g η_y = 0,
    gray_scott      du/dt = D Δu - a u v^2 + F (1 - u),        dv/dt = D/2 Δv + a u v^2 - (F + k) v,    0 <= x, y < 1.

They are those of `navier_stokes` (with β, by which the rotation of a planet changes from south to north, and no force),
of `shallow_water` (η = h - 1, nothing is damped) and of `gray_scott`, solved as there, all in the units of a box of 1:
a box of `LENGTH` and a time of `UNIT` of Gray's and Scott's are 1 here, so a = `UNIT`. `EQUATIONS` are their symbols
(`simulators.dynamics.systems`). Channels 0, 1, 2 are ω; or η, u, v; or u, v; those that a family has not are 0.

What a solution is predicted from are frames of it, the last one at 0; with two, `gap` apart. The first one is drawn at
random, in the same way whatever the coefficients are, so that a single frame tells none of them. The solvers run on
twice as many points as are kept, without those waves of the kept points that change sign from one to the next.

Good values: `RANGES`, 16 points, up to t = 0.5: of 48 draws of the prior, halving the step changes what differs from
the mean of a frame by less than 5e-4 of its norm, doubling the points by less than 2e-2 (a test holds it to that).

References:
    | PROSE-FD: A Multimodal PDE Foundation Model for Learning Multiple Operators for Forecasting Fluid Dynamics (Liu et
      al., 2024), https://arxiv.org/abs/2409.09811
    | Atmospheric and Oceanic Fluid Dynamics, chapters 3 and 6 (Vallis, 2017), https://doi.org/10.1017/9781107588417
    | Complex Patterns in a Simple System (Pearson, 1993), https://doi.org/10.1126/science.261.5118.189
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gray_scott import GrayScott
from navier_stokes import transport, velocity
from shallow_water import ShallowWater
from torch import Tensor

from sciinf.core import X
from sciinf.simulators.dynamics.field_equation import Evolution, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField
from sciinf.simulators.dynamics.spectral import solve
from sciinf.simulators.dynamics.systems import Systems, rate

LENGTH, UNIT = 0.125, 40.0  # Gray's and Scott's box and time that are 1 here
LONGEST = 0.04  # of a step
SPREAD = UNIT * 2e-5 / LENGTH**2  # D
EQUATIONS = {
    "vorticity": "dt u1 + * nu lap u1 + * beta dx psi u1 + * dx psi u1 dy u1 * -1 * dy psi u1 dx u1",
    "shallow_water": "dt u1 * -1 + dx * + 1 u1 u2 dy * + 1 u1 u3 "
    "dt u2 + * f u3 * -1 + * g dx u1 + * u2 dx u2 * u3 dy u2 "
    "dt u3 + * -f u2 * -1 + * g dy u1 + * u2 dx u3 * u3 dy u3",
    "gray_scott": f"dt u1 + * {SPREAD:g} lap u1 + * {-UNIT:g} * u1 * u2 u2 * feed + 1 * -1 u1 "
    f"dt u2 + * {SPREAD / 2:g} lap u2 + * {UNIT:g} * u1 * u2 u2 * * -1 + feed kill u2",
}
RANGES = {
    "vorticity": {"nu": (0.0005, 0.005), "beta": (5.0, 60.0)},
    "shallow_water": {"g": (0.03, 0.2), "f": (0.5, 4.0)},
    "gray_scott": {"feed": (0.02 * UNIT, 0.08 * UNIT), "kill": (0.05 * UNIT, 0.07 * UNIT)},
}


class MixedFluids(Evolution):
    """Flows of three families.

    Args:
        points: Of each side, even.
        times: Of the frames to predict, increasing, above 0.
        gap: Between the two frames that are given; None gives one.
        systems: The families; those of `RANGES` where left out. Others have the same equations.
        longest: Longest step.

    Raises:
        ValueError: If a time or the gap is not above 0, points are odd, or the equations are others.
    """

    name = "mixed_fluids"
    block = 128

    def __init__(
        self,
        points: int = 16,
        times: Sequence[float] = (0.125, 0.25, 0.375, 0.5),
        gap: float | None = 0.1,
        systems: Systems | None = None,
        longest: float = LONGEST,
    ) -> None:
        if not all(t > 0 for t in (*times, 1.0 if gap is None else gap)) or points % 2:
            raise ValueError(f"times, the gap and even points, all above 0: got {times}, {gap} and {points}")
        self.grid, self.times, self.gap, self.longest = (
            BoxGrid((points, points), (1.0, 1.0)),
            tuple(times),
            gap,
            longest,
        )
        self.systems, self.random = systems or Systems(EQUATIONS, RANGES), True
        if self.systems.equations != EQUATIONS:
            raise ValueError(f"families whose solvers are here have the equations {EQUATIONS}")
        self.prior, self.fine = self.systems.prior, BoxGrid((2 * points, 2 * points), (1.0, 1.0))
        count = 1 if gap is None else 2
        self.given, self.observables = described({"frames": (3 * count,)}, len(self.times), 3, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = RandomField(1.0, tau=6.0, alpha=6.0).draw(len(theta), 3, self.grid, generator=generator)
        drawn = drawn.to(theta.device)
        one, patch = drawn[:, :1], torch.sigmoid(4 * drawn[:, :1] - 1)
        begun = (
            torch.cat([2.5 * one, 0 * drawn[:, 1:]], 1),
            torch.tensor([0.03, 0.01, 0.01]).to(drawn).reshape(3, 1, 1) * drawn,
            torch.cat([1 - patch / 2, patch / 4, 0 * one], 1),
        )
        number = self.systems.number(theta)[:, None, None, None]
        first = torch.where(number == 0, begun[0], torch.where(number == 1, begun[1], begun[2]))
        if self.gap is None:
            return {"frames": first}
        return {"frames": torch.cat([first, self.later(theta, first, (self.gap,))[:, 0]], 1)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        return self.later(theta, given["frames"].double()[:, -3:], self.times)

    def later(self, theta: Tensor, field: Tensor, times: Sequence[float]) -> Tensor:
        """Solutions (batch, time, channel, y, x), times after a field (batch, channel, y, x)."""
        number, coefficients = self.systems.number(theta), self.systems.coefficients(theta)
        found = field.new_zeros(len(field), len(times), *field.shape[1:])
        for k, solver in enumerate((self._vorticity, self._water, self._reaction)):
            rows = (number == k).nonzero().flatten()
            if len(rows):
                wide = self.fine.back(widened(self.grid.transformed(field[rows])))
                solved = solver(coefficients[rows], wide, tuple(times))[..., ::2, ::2]
                found[rows, :, : solved.shape[2]] = solved.to(found)
        return found

    def _vorticity(self, coefficients: Tensor, field: Tensor, times: tuple[float, ...]) -> Tensor:
        nu, beta = coefficients[:, :, None, None, None].unbind(1)
        device = coefficients.device
        _, v_of = velocity(self.fine, torch.float64, device)
        carried = transport(self.fine, torch.float64, device)
        linear = -nu * self.fine.squared.to(device) - beta * v_of
        modes = self.fine.transformed(field[:, :1])
        return self.fine.back(solve(modes, linear, lambda v: -carried(v), times, longest=self.longest / 2))

    def _water(self, coefficients: Tensor, field: Tensor, times: tuple[float, ...]) -> Tensor:
        one = torch.eye(3).to(field)[0].reshape(3, 1, 1)
        water = ShallowWater(self.fine.shape[0], times, damping=0.0, longest=self.longest, dtype=torch.float64)
        return water.solve(coefficients, {"initial": field + one}) - one

    def _reaction(self, coefficients: Tensor, field: Tensor, times: tuple[float, ...]) -> Tensor:
        long = tuple(UNIT * t for t in times)
        reaction = GrayScott(self.fine.shape[0], long, length=LENGTH, longest=UNIT * self.longest)
        return reaction.solve(coefficients / UNIT, {"initial": field[:, :2]})

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        return rate(self.systems, theta, field, self.grid)


def widened(modes: Tensor) -> Tensor:
    """Coefficients of the same functions on twice as many points, (..., n, n / 2 + 1) -> (..., 2 n, n + 1).

    The highest waves of the grid, whose phase is not known, are left out.
    """
    half = modes.shape[-1] - 1
    wide = modes.new_zeros(*modes.shape[:-2], 4 * half, 2 * half + 1)
    wide[..., :half, :half] = 4 * modes[..., :half, :half]
    wide[..., 1 - half :, :half] = 4 * modes[..., 1 - half :, :half]
    return wide


simulator = MixedFluids()
