r"""Fisher's equation on a ring: what grows where it is, up to what the place can hold, and spreads.

    du/dt = D d^2u/dx^2 + r u (1 - u),     0 <= x < L,  0 <= t <= T,     u(x, 0) = 1 / (1 + e^{-f(x)}),

so that u begins, and stays, between 0 and 1. Fronts run into empty places at the speed 2 sqrt(r D) or faster, and are
about sqrt(D / r) wide. Pseudo-spectral, exponential time differencing; products cut at two thirds of the highest wave
number.

Good values: D from 0.001 to 0.01 and r from 1 to 5 with L = 1 and 128 points: in 1,024 draws of the prior, halving the
step changed u by less than 1e-6 of its norm and doubling the points by less than 1e-7. Thinner fronts, D from 0.0003 to
0.0005 and r from 8 to 10, made that 1e-5 and 2e-5, and u passed 1 by 3e-6.

References:
    | The Wave of Advance of Advantageous Genes (Fisher, 1937), https://doi.org/10.1111/j.1469-1809.1937.tb02153.x
    | Explicit solutions of Fisher's equation for a special wave speed (Ablowitz & Zeppetella, 1979),
      https://doi.org/10.1007/BF02462380
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


class ReactionDiffusion(Evolution):
    """Fisher's equation, also named after Kolmogorov, Petrovsky and Piskunov.

    Args:
        points: Of the ring.
        length: L.
        times: Of the frames, increasing from 0 on.
        initial: f.
        diffusivity: Law of D; of logarithms about that of 0.003 where left out.
        growth: Law of r; even from 1 to 5 where left out.
        longest: Longest step.
    """

    name = "reaction_diffusion"
    block = 1_024

    def __init__(
        self,
        points: int = 128,
        length: float = 1.0,
        times: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        initial: Start | None = None,
        diffusivity: td.Distribution | None = None,
        growth: td.Distribution | None = None,
        longest: float = LONGEST,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points,), (length,)), tuple(times), longest
        self.initial = initial or RandomField(2.0, tau=5.0, alpha=2.0)
        self.random = self.initial.random
        self.prior = Prior(
            diffusivity=diffusivity or td.LogNormal(-5.8, 0.5),
            growth=growth or td.Uniform(1.0, 5.0),
        )
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"initial": self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device).sigmoid()}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        modes = self.grid.transformed(given["initial"].double())
        growth = column(theta.double(), self.prior, "growth", modes)
        kept, squared = self.grid.kept.to(theta.device), self.grid.squared.to(theta.device)
        linear = -column(theta.double(), self.prior, "diffusivity", modes) * squared

        def rest(v: Tensor) -> Tensor:
            return growth * (v - kept * self.grid.transformed(self.grid.back(v * kept).square()))

        return self.grid.back(solve(modes, linear, rest, self.times, longest=self.longest))

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        spread = column(theta, self.prior, "diffusivity", field) * self.grid.derivative(field, -1, 2)
        return spread + column(theta, self.prior, "growth", field) * field * (1 - field)


simulator = ReactionDiffusion()
