r"""Lorenz's ring: a weather of K sites along a circle of latitude, no two of which stay together for long.

    dx_k/dt = (x_{k+1} - x_{k-2}) x_{k-1} - x_k + F,     k = 1, ..., K around,     0 <= t <= T.

The first term carries along and leaves E = sum_k x_k^2 / 2 as it is, the second damps, the third drives:

    dE/dt = -2 E + F sum_k x_k.

x_k = F everywhere is a fixed point, about which a wave with m periods around the ring grows like e^{lambda t}, lambda =
F (e^{i phi} - e^{-2 i phi}) - 1 at phi = 2 pi m / K: stable up to F = 8/9 where K is large (0.894 at K = 40). At F = 8
and K = 40 there is chaos, in which neighbours part like e^{1.7 t} (measured). Solved by the classical Runge-Kutta
method.

Good values: K = 40, F from 6 to 10. In units of the spread of its trajectory, a site is off by 7e-5 at most up to T = 2
in the median of 500 draws of the prior, and by 3e-2 in the worst; longer runs multiply that as they do neighbours'
distances. Mean, spread and correlation with the next three sites are alike after a settling of 5, 10 or 20.

References:
    | Predictability: a problem partly solved (Lorenz, 1996; reprinted 2006),
      https://doi.org/10.1017/CBO9780511617652.004
    | Optimal Sites for Supplementary Weather Observations (Lorenz & Emanuel, 1998),
      https://doi.org/10.1175/1520-0469(1998)055<0399:OSFSWO>2.0.CO;2
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.frames import frames
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import Start

LONGEST = 0.01  # of a step
COARSE = 0.05  # while random states settle
MIDDLE, WIDTH = 2.3, 3.6  # of the attractor at F = 8, about


class Lorenz96(Evolution):
    """Lorenz's equations of 1996: "u" has one channel, and the sites are the points of a ring of length K.

    Args:
        sites: K.
        times: Of the frames, increasing, none below 0.
        initial: Fields to start from. Where left out, each starts from its own: from normal numbers about the
            attractor, moved on for `settling`.
        forcing: Law of F; even from 6 to 10 where left out.
        settling: Time for which random states move before t = 0.
        longest: Longest step.

    Raises:
        ValueError: If there are fewer than 4 sites.
    """

    name = "lorenz_96"
    block = 1_024

    def __init__(
        self,
        sites: int = 40,
        times: Sequence[float] = tuple(k / 20 for k in range(41)),
        initial: Start | None = None,
        forcing: td.Distribution | None = None,
        settling: float = 10.0,
        longest: float = LONGEST,
    ) -> None:
        if sites < 4:
            raise ValueError(f"a site and the three that drive it are 4, got a ring of {sites} sites")
        self.grid, self.times = BoxGrid((sites,), (float(sites),)), tuple(times)
        self.initial, self.settling, self.longest = initial, settling, longest
        self.random = initial is None or initial.random
        self.prior = Prior(forcing=forcing or td.Uniform(6.0, 10.0))
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        if self.initial is not None:
            return {"initial": self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)}
        shape = (len(theta), 1, *self.grid.shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        about = MIDDLE + WIDTH * noise.to(theta.device)
        return {"initial": self._moved(about, theta, (self.settling,), COARSE)[:, -1]}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        return self._moved(given["initial"].double(), theta, self.times, self.longest)

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        carried = (field.roll(-1, -1) - field.roll(2, -1)) * field.roll(1, -1)
        return carried - field + column(theta, self.prior, "forcing", field)

    def _moved(self, state: Tensor, theta: Tensor, times: Sequence[float], longest: float) -> Tensor:
        exact = theta.double()
        return frames(lambda _, x: self.rate(x, exact), state, times, longest=longest)


simulator = Lorenz96()
