r"""The Gray-Scott reaction: a substance that is fed, another that eats it and makes more of itself, and their patterns.

    du/dt = D_u Δu - u v^2 + F (1 - u),
    dv/dt = D_v Δv + u v^2 - (F + k) v,     0 <= x, y < L,  0 <= t <= T,

on a torus; channel 0 is u, channel 1 is v. F feeds, k removes. Where there is no v, u = 1 is stable; v lives on where
u = 1 - s / 2, v = s / 4 with s from 0 to 1, and it grows into spots that divide, worms and mazes, according to F and k.
s is 1 / (1 + e^{-5 (w - 1)}) of a Gaussian random field w, so patches of v cover about a sixth.

Pseudo-spectral, exponential time differencing: everything but u v^2 is treated exactly. No modes are cut from the
product: where points resolve the pattern, what a third of the modes adds is worth more than what aliases spoil.

Good values: F from 0.03 to 0.06, k from 0.058 to 0.064, points 0.01 apart, up to t = 300: in 32 draws of the prior,
halving the step changed u and v by less than 3e-5 of their norm, doubling the points by less than 1e-4. Where spots
divide without end, at smaller F and k, late frames are worth less.

References:
    | Complex Patterns in a Simple System (Pearson, 1993), https://doi.org/10.1126/science.261.5118.189
    | Autocatalytic reactions in the isothermal, continuous stirred tank reactor (Gray & Scott, 1984),
      https://doi.org/10.1016/0009-2509(84)87017-7
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

LONGEST = 1.5  # of a step
TOGETHER = 8  # solutions on a processor at a time, which its cache holds


class GrayScott(Evolution):
    """The Gray-Scott equations.

    Args:
        points: Of each side.
        times: Of the frames, increasing from 0 on.
        initial: w.
        feed: Law of F; even from 0.03 to 0.06 where left out.
        kill: Law of k; even from 0.058 to 0.064 where left out.
        diffusion: D_u and D_v.
        length: L.
        longest: Longest step.
    """

    name = "gray_scott"
    block = 16

    def __init__(
        self,
        points: int = 48,
        times: Sequence[float] = (0.0, 100.0, 200.0, 300.0),
        initial: Start | None = None,
        feed: td.Distribution | None = None,
        kill: td.Distribution | None = None,
        diffusion: tuple[float, float] = (2e-5, 1e-5),
        length: float = 0.48,
        longest: float = LONGEST,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points, points), (length, length)), tuple(times), longest
        self.initial = initial or RandomField(1.0, tau=20.0, alpha=4.0)
        self.random = self.initial.random
        self.diffusion = diffusion
        self.prior = Prior(feed=feed or td.Uniform(0.03, 0.06), kill=kill or td.Uniform(0.058, 0.064))
        self.given, self.observables = described({"initial": (2,)}, len(self.times), 2, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        w = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        s = torch.sigmoid(5 * (w - 1))
        return {"initial": torch.cat([1 - s / 2, s / 4], dim=1)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        together = TOGETHER if theta.device.type == "cpu" else len(theta)
        parts = zip(theta.double().split(together), given["initial"].double().split(together), strict=True)
        return torch.cat([self._solved(rows, fields) for rows, fields in parts])

    def _solved(self, theta: Tensor, fields: Tensor) -> Tensor:
        modes = self.grid.transformed(fields)
        feed = column(theta, self.prior, "feed", modes)
        fed = torch.zeros_like(modes[:, :1])
        fed[..., 0, 0] = feed[..., 0, 0] * fields[0, 0].numel()

        def rest(both: Tensor) -> Tensor:
            u, v = self.grid.back(both).split(1, dim=1)
            made = self.grid.transformed(u * v.square())
            return torch.cat([fed - made, made], dim=1)

        spread = self._spread(modes.real) * self.grid.squared.to(theta.device)
        lost = torch.cat([feed, feed + column(theta, self.prior, "kill", modes)], dim=1)
        return self.grid.back(solve(modes, -spread - lost, rest, self.times, longest=self.longest))

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        feed, kill = (column(theta, self.prior, name, field) for name in ("feed", "kill"))
        u, v = field.split(1, dim=-3)
        made = u * v.square()
        reaction = torch.cat([feed * (1 - u) - made, made - (feed + kill) * v], dim=-3)
        curved = self.grid.back(self.grid.transformed(field) * self.grid.squared.to(field))
        return reaction - self._spread(field) * curved

    def _spread(self, like: Tensor) -> Tensor:
        """D_u and D_v, along channels."""
        return like.new_tensor(self.diffusion).reshape(2, 1, 1)


simulator = GrayScott()
