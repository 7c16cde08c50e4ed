r"""A bistable reaction on a ring, driven at random: patches of two phases, whose walls wander, meet and vanish.

    du = (D d^2u/dx^2 + r (u - u^3)) dt + f dW,     0 <= x < 1,  0 <= t <= T,     u(x, 0) a Gaussian random field,

W a Wiener process in time and in space a Gaussian random field of mean 0 and sd 1, so that f^2 is the variance that the
forcing brings to a point in a unit of time. The reaction draws u to 1 and to -1; walls between the two are about
sqrt(2 D / r) wide. It is the equation of Allen and Cahn with noise: what a start and parameters tell is a law of
fields, which is not Gaussian where chance decides between the phases.

Pseudo-spectral; cubes are made on twice as many points as are kept, so that none folds back. With a_k = D k^2 and f s_k
the amplitude of the forcing, a step of length h is the deterministic one with the noise that those modes would have
gathered meanwhile (`simulators.dynamics.spectral`), of variance

    f^2 s_k^2 (1 - e^{-2 a_k h}) / (2 a_k).

**Without reaction (r = 0) that is exact**, whatever the step: every mode is an Ornstein-Uhlenbeck process, and u at any
time is Gaussian with mean e^{-a_k t} v_k(0) and variance as above with t for h (`law`).

Good values: D from 0.001 to 0.006, r from 1 to 8 with 64 points, f from 0.3 to 1, T up to 2. In 2,000 draws of the
prior, with noise in common, halving the step changed the mean squares of u, of its changes between frames and of its
waves up to the 15th by less than 0.5 % at t = 2, doubling the points by less than 0.02 %, and either those of shorter
waves by less than 1 %. With D = 0.001 and r = 8 that was 0.3 %, 0.6 % and 4 %.

References:
    | A microscopic theory for antiphase boundary motion and its application to antiphase domain coarsening
      (Allen & Cahn, 1979), https://doi.org/10.1016/0001-6160(79)90196-2
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
LONGEST = 0.01  # of a step


class ForcedReactionDiffusion(Equation):
    """The bistable reaction-diffusion equation with random forcing.

    Args:
        points: Of the ring; an even number.
        times: Of the frames, increasing from 0 on.
        diffusivity: Law of D; logarithms normal around log 0.003 with sd 0.4 where left out.
        growth: Law of r; even from 1 to 5 where left out.
        forcing: Law of f; even from 0.3 to 1 where left out.
        longest: Longest step.
    """

    name = "forced_reaction_diffusion"
    block = 512
    random = True

    def __init__(
        self,
        points: int = 64,
        times: Sequence[float] = tuple(k / 10 for k in range(21)),
        diffusivity: td.Distribution | None = None,
        growth: td.Distribution | None = None,
        forcing: td.Distribution | None = None,
        longest: float = LONGEST,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points,), (1.0,)), tuple(times), longest
        self.initial, self.driven = RandomField(0.5, tau=5.0, alpha=2.0), RandomField(1.0, tau=5.0, alpha=2.0)
        self.prior = Prior(
            diffusivity=diffusivity or td.LogNormal(-5.8, 0.4),
            growth=growth or td.Uniform(1.0, 5.0),
            forcing=forcing or td.Uniform(0.3, 1.0),
        )
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"initial": self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)}

    def solution(self, theta: Tensor, given: X, *, generator: torch.Generator) -> Tensor:
        theta, points = theta.double(), self.grid.shape[0]
        fine = BoxGrid((FINER * points,), self.grid.lengths)
        modes = self.grid.transformed(given["initial"].double())
        linear = -column(theta, self.prior, "diffusivity", modes) * self.grid.squared.to(theta.device)
        growth, size = (column(theta, self.prior, name, modes) for name in ("growth", "forcing"))
        inner = (torch.arange(points // 2 + 1) < points // 2).to(theta.device)  # all but the highest

        def rest(v: Tensor) -> Tensor:
            cube = fine.transformed(fine.back(refined(v, fine.shape[0], points)) ** 3)
            return growth * inner * (v - cube[..., : points // 2 + 1] / FINER)

        def noise() -> Tensor:
            drawn = self.driven.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
            return size * self.grid.transformed(drawn)

        return self.grid.back(solve(modes, linear, rest, self.times, longest=self.longest, noise=noise))

    def law(self, theta: Tensor, initial: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """Without reaction, mean of u at a time, (batch, 1, points), and its covariance, (batch, points, points).

        Args:
            theta: Parameters, (batch, 3), whose growth is 0.
            initial: Fields at time 0, (batch, 1, points).
            time: Above 0.

        Raises:
            ValueError: If there is a reaction.
        """
        if bool((growth := theta[:, self.prior.names.index("growth")]).any()):
            raise ValueError(f"the law of {self.name!r} is known where growth is 0, and it is up to {growth.max():g}")
        initial = initial.double()
        linear = -column(theta, self.prior, "diffusivity", initial) * self.grid.squared
        driven = column(theta, self.prior, "forcing", initial) * self.driven.filter(self.grid)
        return linear_law(self.grid, initial, linear, driven, time)


simulator = ForcedReactionDiffusion()
