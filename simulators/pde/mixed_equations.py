r"""Equations of several families on one ring, each row another: which one, and its coefficients, are parameters.

    du/dt = sum_j c_j T_j(u),     0 <= x < 2 pi,     0 <= t <= T,

T_j the terms of `equation_terms`, of which each family has some: advection and diffusion (c u_x + D u_xx), Burgers
(a u u_x + nu u_xx), Korteweg and de Vries (a u u_x + d u_xxx), Kuramoto and Sivashinsky (a u u_x + b u_xx + e u_xxxx),
and Fisher (D u_xx + r u + s u^2). All start alike, from u = 1 / (1 + e^{-f(x)}), f a random field, so that nothing but
what u does tells which equation it follows. What a solution is predicted from is two frames, at -`gap` and at 0.

Pseudo-spectral, exponential time differencing, on twice as many points as are kept; products cut at two thirds of the
highest wave number.

Good values: coefficients in `RANGES` with 64 points, T = 1.5 and smooth f: in 512 draws of the prior, halving the step
changed u by less than 3e-6 of its norm, and doubling the points by less than 3e-6. Where f is rougher, waves that
u_xxx makes fast need shorter steps: with tau = 20 and alpha = 3 in place of 25 and 8 (and 1.5 times as large), halving
steps of 0.005 changed some u of Korteweg's and de Vries' equation by 5e-3.

References:
    | Towards a Foundation Model for Partial Differential Equations: Multi-Operator Learning and Extrapolation (Sun et
      al., 2024), https://arxiv.org/abs/2404.12355
    | Fourth-Order Time-Stepping for Stiff PDEs (Kassam & Trefethen, 2005), https://doi.org/10.1137/S1064827502410633
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sciinf.core import X
from sciinf.simulators.dynamics.equation_terms import Families, rate, split
from sciinf.simulators.dynamics.field_equation import Evolution, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField, Start
from sciinf.simulators.dynamics.spectral import solve

FINER = 2  # times as many points as are kept
LONGEST = 0.005  # of a step
RANGES = {
    "advection": {"u_x": (-1.25, 1.25), "u_xx": (0.005, 0.1)},
    "burgers": {"u u_x": (-2.0, -0.5), "u_xx": (0.05, 0.2)},
    "korteweg_de_vries": {"u u_x": (-2.0, -0.5), "u_xxx": (-0.06, -0.02)},
    "kuramoto_sivashinsky": {"u u_x": (-2.0, -0.5), "u_xx": (-0.25, -0.1), "u_xxxx": (-0.02, -0.01)},
    "reaction_diffusion": {"u_xx": (0.005, 0.1), "u": (0.5, 2.5), "u^2": (-2.5, -0.5)},
}


class MixedEquations(Evolution):
    """Equations of several families.

    Args:
        points: Of the ring.
        times: Of the frames to predict, increasing, above 0.
        gap: Between the two frames that are given.
        families: Of equations; the five of `RANGES` where left out.
        initial: f.
        longest: Longest step.

    Raises:
        ValueError: If a time or the gap is not above 0.
    """

    name = "mixed_equations"
    block = 256

    def __init__(
        self,
        points: int = 64,
        times: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
        gap: float = 0.25,
        families: Families | None = None,
        initial: Start | None = None,
        longest: float = LONGEST,
    ) -> None:
        if not gap > 0 or not all(t > 0 for t in times):
            raise ValueError(f"frames to predict come after the second given one, got times {times} and a gap of {gap}")
        self.grid, self.times, self.gap, self.longest = BoxGrid((points,), (2 * math.pi,)), tuple(times), gap, longest
        self.families, self.initial = families or Families(RANGES), initial or RandomField(1.0, tau=25.0, alpha=8.0)
        self.random, self.prior = self.initial.random, self.families.prior
        self.given, self.observables = described({"frames": (2,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        first = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device).sigmoid()
        return {"frames": torch.cat([first, self.later(theta, first, (self.gap,))[:, 0]], 1)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        return self.later(theta, given["frames"].double()[:, 1:], self.times)

    def later(self, theta: Tensor, field: Tensor, times: Sequence[float]) -> Tensor:
        """Solutions (batch, time, channel, x), times after a field (batch, channel, x)."""
        points = self.grid.shape[0]
        fine = BoxGrid((FINER * points,), self.grid.lengths)
        modes = self.grid.transformed(field)
        wide = torch.zeros(*modes.shape[:-1], FINER * points // 2 + 1, dtype=modes.dtype, device=modes.device)
        wide[..., : modes.shape[-1]] = FINER * modes
        wide[..., modes.shape[-1] - 1] *= 0.5 if points % 2 == 0 else 1.0
        linear, rest = split(self.families.coefficients(theta), fine)
        return fine.back(solve(wide, linear, rest, times, longest=self.longest))[..., ::FINER]

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        return rate(self.families.coefficients(theta), field, self.grid)


simulator = MixedEquations()
