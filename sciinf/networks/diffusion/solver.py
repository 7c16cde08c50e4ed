r"""Solvers that go from noise to data along the probability flow of a diffusion model.

In y = x_t / alpha, at noise level s, all paths of `schedule` have the same reverse process. With the denoiser D(y, s) =
E[x_0 | y], its score is (D - y) / s^2. Samples follow the ordinary differential equation

    dy/ds = (y - D(y, s)) / s,    or    dy/du = D(y, s) - y    in u = -log s, which grows as noise goes.

The second form is linear in y, except for D. So over a step h = log(s / s'), exactly

    y' = e^{-h} y + int_0^h e^{-(h - v)} D(y(v), s e^{-v}) dv,

`Exponential` solves this integral by a polynomial through the last values of D. Degree 0 is DDIM, and degree 1 has the
order of DPM-Solver++(2M). Solvers that add noise are in `stochastic`.

| solver | order | evaluations for N steps |
|---|---|---|
| `Exponential(order=1)` (DDIM) | 1 | N |
| `Exponential(order=2)`, `3` | 2, 3 | N |
| `Heun` | 2 | 2 N |
| `ProbabilityFlow` | 5 | as the tolerance asks |

All solvers start from y = s_0 e at the highest level. They end at the lowest level, and the noise of this level remains
in y.

References:
    | Denoising Diffusion Implicit Models (Song, Meng & Ermon, 2021), https://arxiv.org/abs/2010.02502
    | DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (Lu et al., 2022),
      https://arxiv.org/abs/2211.01095
    | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang & Chen, 2023), https://arxiv.org/abs/2204.13902
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), algorithm 2,
      https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.networks.diffusion.grid import Geometric, Grid, Power
from sciinf.networks.diffusion.schedule import NoiseSchedule

Rows = Float[Tensor, "*rows dim"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""D(y, s): y (*rows, D) and the level s, of shape () or one per row (*rows), to (*rows, D)."""


class Solver(Component, ABC):
    """A solver that goes from noise to data.

    Attributes:
        order: Convergence order of the error for many steps: of the solution for deterministic solvers, of expectations
            for the others.
        pushes: Whether the end of a row depends on its start alone, and not on added noise or on other rows.
    """

    order: int
    pushes: bool = False

    @abstractmethod
    def evaluations(self) -> int | None:
        """Number of evaluations of the denoiser; None if it depends on a tolerance."""

    @abstractmethod
    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        """Move y from the path's highest noise level to its lowest level.

        Args:
            denoise: Denoiser D.
            y: s_0 times standard normal noise, plus data if available.
            schedule: Path from data to noise.
            generator: Source of noise, for solvers that add noise.
        """


class Exponential(Solver):
    """Exponential integrator of Adams type; order 1 is DDIM.

    Args:
        steps: N, the number of steps.
        order: Number of values of D that a step uses: 1, 2 or 3. The first steps use fewer.
        grid: Grid of noise levels. None uses `Geometric`.

    Raises:
        ValueError: If `steps` is not an int of at least 1, or `order` is not 1, 2 or 3.
    """

    def __init__(self, steps: int = 20, order: int = 2, grid: Grid | None = None) -> None:
        check_whole("steps", steps, 1)
        if order not in (1, 2, 3):
            raise ValueError(f"the order of Exponential is 1, 2 or 3, got {order}")
        self.steps, self.order, self.grid = steps, order, grid or Geometric()
        self.pushes = True

    def evaluations(self) -> int:
        return self.steps

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        del generator
        levels = self.grid.levels(schedule, self.steps)
        u = (-levels.log()).tolist()
        values: list[Tensor] = []  # Values of D, the latest first.
        for step in range(self.steps):
            values = [denoise(y, levels[step].to(y)), *values[: self.order - 1]]
            h = u[step + 1] - u[step]
            places = [u[step - back] - u[step] for back in range(len(values))]
            y = math.exp(-h) * y
            for weight, value in zip(_weights(places, h), values, strict=True):
                y = y + weight * value
        return y


class Heun(Solver):
    """Heun's method in the noise level, with optional added noise before each step, as in EDM.

    Args:
        steps: N, the number of steps.
        churn: S of EDM, the amount of noise that all steps add. Each step raises its level by the factor 1 + min(churn
            / N, sqrt 2 - 1). With 0 the solver is deterministic. `order` is the order of the deterministic solver.
        grid: Grid of noise levels. None uses `Power`.

    Raises:
        ValueError: If `steps` is not an int of at least 1, or `churn` is negative.
    """

    order = 2

    def __init__(self, steps: int = 16, churn: float = 0.0, grid: Grid | None = None) -> None:
        check_whole("steps", steps, 1)
        if not churn >= 0:
            raise ValueError(f"churn must be at least 0, got {churn}")
        self.steps, self.churn, self.grid = steps, float(churn), grid or Power()
        self.pushes = not churn

    def evaluations(self) -> int:
        return 2 * self.steps

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        levels = self.grid.levels(schedule, self.steps)
        raised = min(self.churn / self.steps, math.sqrt(2) - 1)
        for before, after in itertools.pairwise(levels.tolist()):
            s = before * (1 + raised)
            if raised:
                y = y + math.sqrt(s * s - before * before) * noise_like(y, generator)
            slope = (y - denoise(y, y.new_tensor(s))) / s
            ahead = y + (after - s) * slope
            y = y + 0.5 * (after - s) * (slope + (ahead - denoise(ahead, y.new_tensor(after))) / after)
        return y


class ProbabilityFlow(Solver):
    """Dormand and Prince's method of order five by torchdiffeq, whose steps adapt to a tolerance.

    Args:
        tolerance: Largest relative and absolute error of one step.

    Raises:
        ValueError: Unless the tolerance is above 0.
    """

    order = 5

    def __init__(self, tolerance: float = 1e-4) -> None:
        if not tolerance > 0:
            raise ValueError(f"the tolerance must be above 0, got {tolerance}")
        self.tolerance = float(tolerance)

    def evaluations(self) -> None:
        return None

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        from torchdiffeq import odeint

        del generator
        span = torch.tensor([-math.log(schedule.most), -math.log(schedule.least)], dtype=y.dtype, device=y.device)
        found = odeint(
            lambda u, value: denoise(value, (-u).exp()) - value,
            y,
            span,
            method="dopri5",
            rtol=self.tolerance,
            atol=self.tolerance,
        )
        return cast(Tensor, found)[-1]


def with_mean(denoise: Denoiser, noise: Float[Tensor, "*rows dim"], schedule: NoiseSchedule) -> Tensor:
    """Starting points at the highest noise level: the given noise plus the mean that the denoiser predicts there."""
    return noise + denoise(noise, noise.new_tensor(schedule.most))


def noise_like(y: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of y's shape, drawn on the generator's device and moved to y's device."""
    return torch.randn(y.shape, generator=generator, device=generator.device, dtype=y.dtype).to(y.device)


def _weights(places: Sequence[float], h: float) -> list[float]:
    """Weights int_0^h e^{-(h - v)} l_j(v) dv, with the Lagrange polynomials l_j through `places`.

    The first of the places is 0. I_k = int_0^h e^{-(h - v)} v^k dv follows from I_0 = 1 - e^{-h} and I_k = h^k - k
    I_{k-1}.
    """
    moments = [-math.expm1(-h)]
    for k in range(1, len(places)):
        moments.append(h**k - k * moments[-1])
    powers = torch.tensor([[place**k for place in places] for k in range(len(places))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()
