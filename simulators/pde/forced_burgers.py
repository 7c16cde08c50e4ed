r"""Burgers' equation on a ring, driven at random: waves that steepen, decay and are stirred.

    du = (-b u du/dx + nu d^2u/dx^2) dt + f dW,     0 <= x < 1,  0 <= t <= T,     u(x, 0) a Gaussian random field,

W a Wiener process in time and in space a Gaussian random field of mean 0 and sd 1, so that f^2 is the variance that the
forcing brings to a point in a unit of time. No two solutions of the same start are alike: what a start and parameters
tell is a law of fields.

Pseudo-spectral on twice as many points as are kept, products cut at two thirds of the highest wave number. With v_k the
Fourier coefficients, a_k = nu k^2 and f s_k the amplitude of the forcing, a step of length h is the deterministic one
with the noise that those modes would have gathered meanwhile (`simulators.dynamics.spectral`), of variance

    f^2 s_k^2 (1 - e^{-2 a_k h}) / (2 a_k).

**Without steepening (b = 0) that is exact**, whatever the step: every mode is an Ornstein-Uhlenbeck process, and u at
any time is Gaussian with mean e^{-a_k t} v_k(0) and variance as above with t for h (`law`).

Good values: nu from 0.003 to 0.05 with 64 points, f from 0.2 to 1.

References:
    | Burgers Turbulence (Bec & Khanin, 2007), https://doi.org/10.1016/j.physrep.2007.04.002
    | Exponential Integrators for Stochastic Partial Differential Equations (Jentzen & Kloeden, 2009),
      https://doi.org/10.1098/rspa.2008.0325
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.simulators.dynamics.field_equation import Equation, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField
from sciinf.simulators.dynamics.spectral import linear_law, refined, solve

FINER = 2  # times as many points as are kept
LONGEST = 0.005  # of a step


class ForcedBurgers(Equation):
    """Burgers' equation with random forcing.

    Args:
        points: Of the ring.
        times: Of the frames, increasing from 0 on.
        steepening: b; 0 leaves a linear equation, whose law is known.
        viscosity: Law of nu; logarithms normal around log 0.01 with sd 0.4 where left out.
        forcing: Law of f; even from 0.3 to 1 where left out.
        longest: Longest step.
    """

    name = "forced_burgers"
    block = 512
    random = True

    def __init__(
        self,
        points: int = 64,
        times: Sequence[float] = tuple(k / 10 for k in range(21)),
        steepening: float = 1.0,
        viscosity: td.Distribution | None = None,
        forcing: td.Distribution | None = None,
        longest: float = LONGEST,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points,), (1.0,)), tuple(times), longest
        self.steepening = steepening
        self.initial, self.driven = RandomField(0.5, tau=5.0, alpha=2.0), RandomField(1.0, tau=5.0, alpha=2.0)
        self.prior = Prior(viscosity=viscosity or td.LogNormal(-4.6, 0.4), forcing=forcing or td.Uniform(0.3, 1.0))
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"initial": self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)}

    def solution(self, theta: Tensor, given: X, *, generator: torch.Generator) -> Tensor:
        theta = theta.double()
        fine = BoxGrid((FINER * self.grid.shape[0],), self.grid.lengths)
        modes = refined(self.grid.transformed(given["initial"].double()), fine.shape[0], self.grid.shape[0])
        decay = column(theta, self.prior, "viscosity", modes) * fine.squared.to(theta.device)
        size = column(theta, self.prior, "forcing", modes)
        slope = fine.kept.to(theta.device) * fine.slope(0).to(theta.device)

        def rest(v: Tensor) -> Tensor:
            return -0.5 * self.steepening * slope * fine.transformed(fine.back(v).square())

        def noise() -> Tensor:
            drawn = self.driven.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
            return size * refined(self.grid.transformed(drawn), fine.shape[0], self.grid.shape[0])

        found = solve(modes, -decay, rest, self.times, longest=self.longest, noise=noise)
        return fine.back(found)[..., ::FINER]

    def law(self, theta: Tensor, initial: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """Without steepening, mean of u at a time, (batch, 1, points), and its covariance, (batch, points, points).

        Args:
            theta: Parameters, (batch, 2).
            initial: Fields at time 0, (batch, 1, points).
            time: Above 0.

        Raises:
            ValueError: If there is steepening.
        """
        if self.steepening:
            raise ValueError(f"the law of {self.name!r} is known without steepening only, and it is {self.steepening}")
        initial = initial.double()
        decay = column(theta, self.prior, "viscosity", initial) * self.grid.squared
        driven = column(theta, self.prior, "forcing", initial) * self.driven.filter(self.grid)
        return linear_law(self.grid, initial, -decay, driven, time)


simulator = ForcedBurgers()
