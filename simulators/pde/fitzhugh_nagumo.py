r"""FitzHugh and Nagumo's nerve cell: a voltage that fires, and what lets it rest.

    dv/dt = v - v^3 / 3 - w + I,     dw/dt = (v + a - b w) / tau,     0 <= t <= T,

v the voltage across the membrane, w how far it has recovered, I the current put in, all without units. Where w is slow
(tau large), v jumps between its outer branches. Fixed points are the roots of v - v^3/3 - (v + a) / b + I, one of them
for b < 1, and are unstable where (1 - v^2) > b / tau: at a = 0.7, b = 0.8 and tau = 12.5 the cell then fires again and
again, for 0.33 < I < 1.42, and rests outside of that. Solved by the classical Runge-Kutta method.

Good values: a near 0.7, b near 0.8, tau from 8 to 20, I from 0 to 1. In units of the spread of its trajectory, a
state is off by 1e-5 at most up to T = 100 in the median of 500 draws of the prior, and by 3e-4 in the worst.

References:
    | Impulses and Physiological States in Theoretical Models of Nerve Membrane (FitzHugh, 1961),
      https://doi.org/10.1016/S0006-3495(61)86902-6
    | An Active Pulse Transmission Line Simulating Nerve Axon (Nagumo, Arimoto & Yoshizawa, 1962),
      https://doi.org/10.1109/JRPROC.1962.288235
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

LONGEST = 0.1  # of a step
MIDDLE, WIDTH = (0.0, 0.5), (1.0, 0.5)  # of random states to start from


class FitzHughNagumo(Evolution):
    """FitzHugh and Nagumo's equations: "u" has the channels v, w.

    Args:
        times: Of the frames, increasing, none below 0.
        initial: State (v, w) that all start from; normal numbers about (0, 0.5), new for each, where left out.
        a: Law of a; about 0.7 within a tenth where left out.
        b: Law of b; about 0.8 within a tenth where left out.
        tau: Law of tau; about 12.5 within a fifth where left out.
        current: Law of I; even from 0 to 1 where left out.
        longest: Longest step.

    Raises:
        ValueError: If `initial` has not two numbers.
    """

    name = "fitzhugh_nagumo"
    block = 4_096
    grid = BoxGrid((), ())

    def __init__(
        self,
        times: Sequence[float] = tuple(float(k) for k in range(101)),
        initial: Sequence[float] | None = None,
        a: td.Distribution | None = None,
        b: td.Distribution | None = None,
        tau: td.Distribution | None = None,
        current: td.Distribution | None = None,
        longest: float = LONGEST,
    ) -> None:
        if initial is not None and len(initial) != 2:
            raise ValueError(f"a state has two numbers, v and w; got initial={tuple(initial)}")
        self.times, self.longest = tuple(times), longest
        self.initial = None if initial is None else tuple(initial)
        self.random = initial is None
        self.prior = Prior(
            a=a or td.LogNormal(math.log(0.7), 0.1),
            b=b or td.LogNormal(math.log(0.8), 0.1),
            tau=tau or td.LogNormal(math.log(12.5), 0.2),
            current=current or td.Uniform(0.0, 1.0),
        )
        self.given, self.observables = described({"initial": (2,)}, len(self.times), 2, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        options = {"dtype": torch.float64, "device": generator.device}
        if self.initial is not None:
            return {"initial": torch.tensor(self.initial, **options).to(theta.device).expand(len(theta), 2)}
        noise = torch.randn(len(theta), 2, generator=generator, **options)
        return {"initial": (torch.tensor(MIDDLE, **options) + torch.tensor(WIDTH, **options) * noise).to(theta.device)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        exact = theta.double()
        return frames(lambda _, y: self.rate(y, exact), given["initial"].double(), self.times, longest=self.longest)

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        v, w = field.unbind(-1)
        a, b, tau, current = (column(theta, self.prior, name, v) for name in ("a", "b", "tau", "current"))
        return torch.stack([v - v**3 / 3 - w + current, (v + a - b * w) / tau], dim=-1)


simulator = FitzHughNagumo()
