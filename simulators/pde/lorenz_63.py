r"""Lorenz's three equations of convection: the first strange attractor.

    dx/dt = sigma (y - x),     dy/dt = x (rho - z) - y,     dz/dt = x y - beta z,     0 <= t <= T,

x how strongly the fluid turns, y and z how its temperature differs across and from a linear profile. Volumes shrink
everywhere at the rate sigma + 1 + beta. For rho > 1 there are, besides the origin, the fixed points

    C+- = (+-sqrt(beta (rho - 1)), +-sqrt(beta (rho - 1)), rho - 1),

unstable for rho > sigma (sigma + beta + 3) / (sigma - beta - 1), which is 24.74 at sigma = 10 and beta = 8/3; at rho =
28 neighbours then part like e^{0.9 t} (measured). Solved by the classical Runge-Kutta method.

Good values: sigma near 10, rho from 25 to 35, beta near 8/3. In units of the spread of its trajectory, a state is off
by 2e-6 at most up to T = 3 in the median of 500 draws of the prior, and by 3e-3 in the worst; longer runs multiply that
as they do neighbours' distances.

References:
    | Deterministic Nonperiodic Flow (Lorenz, 1963), https://doi.org/10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2
    | User-defined Event Sampling and Uncertainty Quantification in Diffusion Models for Physical Dynamical Systems
      (Finzi et al., 2023), https://arxiv.org/abs/2306.07526
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.frames import frames
from sciinf.simulators.dynamics.grid import BoxGrid

LONGEST = 0.005  # of a step
COARSE = 0.02  # while random states settle
MIDDLE, WIDTH = (0.0, 0.0, 24.0), (8.0, 9.0, 8.5)  # of the attractor, about


class Lorenz63(Evolution):
    """Lorenz's equations of 1963: "u" has the channels x, y, z.

    Args:
        times: Of the frames, increasing, none below 0.
        initial: State (x, y, z) that all start from. Where left out, each starts from its own: from normal numbers
            about the attractor, moved on for `settling`.
        sigma: Law of sigma; about 10 within a tenth where left out.
        rho: Law of rho; about 28 within a tenth where left out.
        beta: Law of beta; about 8/3 within a tenth where left out.
        settling: Time for which random states move before t = 0.
        longest: Longest step.

    Raises:
        ValueError: If `initial` has not three numbers.
    """

    name = "lorenz_63"
    block = 4_096
    grid = BoxGrid((), ())

    def __init__(
        self,
        times: Sequence[float] = tuple(k / 20 for k in range(61)),
        initial: Sequence[float] | None = None,
        sigma: td.Distribution | None = None,
        rho: td.Distribution | None = None,
        beta: td.Distribution | None = None,
        settling: float = 2.0,
        longest: float = LONGEST,
    ) -> None:
        if initial is not None and len(initial) != 3:
            raise ValueError(f"a state has three numbers, x, y and z; got initial={tuple(initial)}")
        self.times, self.settling, self.longest = tuple(times), settling, longest
        self.initial = None if initial is None else tuple(initial)
        self.random = initial is None
        self.prior = Prior(
            sigma=sigma or td.LogNormal(math.log(10.0), 0.1),
            rho=rho or td.LogNormal(math.log(28.0), 0.1),
            beta=beta or td.LogNormal(math.log(8 / 3), 0.1),
        )
        self.given, self.observables = described({"initial": (3,)}, len(self.times), 3, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        options = {"dtype": torch.float64, "device": generator.device}
        if self.initial is not None:
            return {"initial": torch.tensor(self.initial, **options).to(theta.device).expand(len(theta), 3)}
        noise = torch.randn(len(theta), 3, generator=generator, **options)
        about = torch.tensor(MIDDLE, **options) + torch.tensor(WIDTH, **options) * noise
        return {"initial": self._moved(about.to(theta.device), theta, (self.settling,), COARSE)[:, -1]}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        return self._moved(given["initial"].double(), theta, self.times, self.longest)

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        x, y, z = field.unbind(-1)
        sigma, rho, beta = (column(theta, self.prior, name, x) for name in ("sigma", "rho", "beta"))
        return torch.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], dim=-1)

    def _moved(self, state: Tensor, theta: Tensor, times: Sequence[float], longest: float) -> Tensor:
        exact = theta.double()
        return frames(lambda _, y: self.rate(y, exact), state, times, longest=longest)


simulator = Lorenz63()
