r"""Stochastic solvers, which draw data from noise along the reverse process.

In y = x_t / alpha, with the time u = -log s that grows as noise decreases, the reverse process is

    dy = 2 (D(y, s) - y) du + sqrt(2) s dW,

where D is the denoiser (see `solver`). The added noise corrects earlier errors. Draws with an inexact
denoiser are therefore better than those of the deterministic flow, but a step of the same length is less
accurate. With r = s'/s and e ~ N(0, I):

| solver | step | order | evaluations for N steps |
|---|---|---|---|
| `Ancestral` | y' = D + r^2 (y - D) + s' sqrt(1 - r^2) e, distributed as y' given y and x_0 = D | 1 | N |
| `ReverseEulerMaruyama` | y' = y + 2 log(1/r) (D - y) + s sqrt(1 - r^2) e | 1 | N |
| `PredictorCorrector` | `Ancestral`, then c steps of Langevin dynamics at the new level | 1 | (1 + c) N |
| `ExtendedReverse` | y' = R y + (1 - R) D + (Taylor terms) + sqrt(s'^2 - R^2 s^2) e, R = phi(s')/phi(s) | terms | N |
| `AdaptiveEuler` | improved Euler-Maruyama, whose error sets the next step's length | 2 | by tolerance |

`ExtendedReverse` (ER-SDE) is a family of processes with the same distribution at each level but different
amounts of noise. phi sets the amount: phi(s) = s is the probability flow, phi(s) = s^2 the reverse process.
Exactly,

    y' = R y + phi(s') int_{s'}^{s} phi'(v) / phi(v)^2 D(y(v), v) dv + noise,

and for D as a Taylor series at s, with divided differences of the last values of D as its derivatives,

    ... = R y + (1 - R) D + (s' - s + phi(s') int_{s'}^{s} dv / phi(v)) D'
        + ((s' - s)^2 / 2 + phi(s') int_{s'}^{s} (v - s) / phi(v) dv) D''.

The chosen phi adds little noise. Expectations thus converge with the order of the series, as far as draws can
show.

The paper of `AdaptiveEuler` rejects a step if its two estimates differ much, and repeats it shorter with new
noise. The estimates differ most where the noise was largest. Rejection therefore reduces the variance of the
draws, the more the smaller the tolerance. Here every step is accepted, and its error sets the length of the
next step. This length thus depends on the past alone.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021),
      https://arxiv.org/abs/2011.13456
    | Elucidating the solution space of extended reverse-time SDE for diffusion models (Cui et al., 2023),
      https://arxiv.org/abs/2309.06169
    | Gotta Go Fast When Generating Data with Score-Based Models (Jolicoeur-Martineau et al., 2021),
      https://arxiv.org/abs/2105.14080
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.networks.diffusion.grid import Geometric, Grid
from sciinf.networks.diffusion.schedule import NoiseSchedule
from sciinf.networks.diffusion.solver import Denoiser, Rows, Solver, noise_like


class Ancestral(Solver):
    """Solver that draws y' from its distribution given y and x_0 = D.

    Args:
        steps: Number of steps N.
        grid: Noise levels between the steps, by default evenly spaced in log s.

    Raises:
        ValueError: If steps is no int of at least 1.
    """

    order = 1

    def __init__(self, steps: int = 100, grid: Grid | None = None) -> None:
        check_whole("steps", steps, 1)
        self.steps, self.grid = steps, grid or Geometric()

    def evaluations(self) -> int:
        return self.steps

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        for s, after in _pairs(self.grid.levels(schedule, self.steps)):
            y = _ancestral(y, denoise(y, y.new_tensor(s)), s, after, generator)
        return y


class ReverseEulerMaruyama(Solver):
    """Euler-Maruyama solver of the reverse process, the baseline for other solvers.

    Args:
        steps: Number of steps N. It must exceed log(most / least) of the path, or the solver diverges.
        grid: Noise levels between the steps, by default evenly spaced in log s.

    Raises:
        ValueError: If steps is no int of at least 1. `solve` raises it if a step is too long to be stable.
    """

    order = 1

    def __init__(self, steps: int = 500, grid: Grid | None = None) -> None:
        check_whole("steps", steps, 1)
        self.steps, self.grid = steps, grid or Geometric()

    def evaluations(self) -> int:
        return self.steps

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        for s, after in _pairs(self.grid.levels(schedule, self.steps)):
            h = math.log(s / after)
            if h >= 1:
                raise ValueError(
                    f"{self.steps} steps of ReverseEulerMaruyama from level {schedule.most:g} to "
                    f"{schedule.least:g} are too long to be stable; take more steps, or use Ancestral, whose "
                    "steps can have any length"
                )
            drift = 2 * h * (denoise(y, y.new_tensor(s)) - y)
            y = y + drift + math.sqrt(s * s - after * after) * noise_like(y, generator)
        return y


class PredictorCorrector(Solver):
    """Solver that makes steps of `Ancestral`, each followed by Langevin dynamics at the level reached.

    Args:
        steps: Number of steps N.
        corrections: Number c of Langevin steps at each level.
        ratio: Length of a Langevin step in units of sqrt(2) s. Steps are stable up to a ratio of 0.7.
        grid: Noise levels between the steps, by default evenly spaced in log s.

    Raises:
        ValueError: If steps or corrections is no int of at least 1, or the ratio is not in (0, 0.7].
    """

    order = 1

    def __init__(self, steps: int = 50, corrections: int = 1, ratio: float = 0.16, grid: Grid | None = None) -> None:
        check_whole("steps", steps, 1)
        check_whole("corrections", corrections, 1)
        if not 0 < ratio <= 0.7:
            raise ValueError(f"the ratio of PredictorCorrector must be in (0, 0.7], got {ratio}")
        self.steps, self.corrections, self.ratio, self.grid = steps, corrections, float(ratio), grid or Geometric()

    def evaluations(self) -> int:
        return self.steps * (1 + self.corrections)

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        step = 2 * self.ratio**2  # In units of s^2, which is at most the variance of y.
        for s, after in _pairs(self.grid.levels(schedule, self.steps)):
            y = _ancestral(y, denoise(y, y.new_tensor(s)), s, after, generator)
            for _ in range(self.corrections):
                drift = step * (denoise(y, y.new_tensor(after)) - y)
                y = y + drift + math.sqrt(2 * step) * after * noise_like(y, generator)
        return y


class ExtendedReverse(Solver):
    """ER-SDE solver with the amount of noise that its authors found best, phi(s) = s (exp(s^0.3) + 10).

    Args:
        steps: Number of steps N.
        terms: Number of values of D that a step uses: 1, 2 or 3. The first steps use fewer.
        grid: Noise levels between the steps, by default evenly spaced in log s.

    Raises:
        ValueError: If steps is no int of at least 1, or terms is not 1, 2 or 3.
    """

    def __init__(self, steps: int = 30, terms: int = 3, grid: Grid | None = None) -> None:
        check_whole("steps", steps, 1)
        if terms not in (1, 2, 3):
            raise ValueError(f"the terms of ExtendedReverse must be 1, 2 or 3, got {terms}")
        self.steps, self.terms, self.order, self.grid = steps, terms, terms, grid or Geometric()

    def evaluations(self) -> int:
        return self.steps

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        known: list[tuple[float, Tensor]] = []  # Levels and values of D, the latest first.
        for s, after in _pairs(self.grid.levels(schedule, self.steps)):
            known = [(s, denoise(y, y.new_tensor(s))), *known[: self.terms - 1]]
            (ratio, first, second), value = _taylor(s, after), known[0][1]
            spread = math.sqrt(max(after * after - (ratio * s) ** 2, 0.0))
            y = ratio * y + (1 - ratio) * value + spread * noise_like(y, generator)
            if len(known) > 1:
                slope = _slope(known[0], known[1])
                y = y + first * slope
                if len(known) > 2:
                    bend = 2 * (slope - _slope(known[1], known[2])) / (known[0][0] - known[2][0])
                    y = y + first * 0.5 * (known[0][0] - known[1][0]) * bend + second * bend
        return y


class AdaptiveEuler(Solver):
    """Stochastic solver with steps of adaptive length, chosen for each row.

    A step has two evaluations of D. The second improves the result of the first, and gives an estimate of its
    error.

    Args:
        relative: Tolerance of a step, relative to y.
        absolute: Tolerance of a step, in units of the noise level. The two tolerances are added.
        most: Largest number of steps.

    Raises:
        ValueError: If a tolerance is not above 0. `solve` raises it if the number of steps does not suffice.
    """

    order = 2

    def __init__(self, relative: float = 0.05, absolute: float = 0.05, most: int = 1_000) -> None:
        check_whole("most", most, 1)
        if not (relative > 0 and absolute > 0):
            raise ValueError(f"relative and absolute must be above 0, got {relative} and {absolute}")
        self.relative, self.absolute, self.most = float(relative), float(absolute), most

    def evaluations(self) -> None:
        return None

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        u = torch.full(y.shape[:-1], -math.log(schedule.most), dtype=y.dtype, device=y.device)
        end, h = -math.log(schedule.least), torch.full_like(u, 0.05)
        for _ in range(self.most):
            left = end - u
            h = torch.minimum(h, left)
            if not bool((h > 0).any()):
                return y
            s, after = (-u).exp(), (-(u + h)).exp()
            spread = (s * s - after * after).clamp_min(0).sqrt()[..., None] * noise_like(y, generator)
            step = 2 * h[..., None]
            once = y + step * (denoise(y, s) - y) + spread
            twice = y + 0.5 * (once - y - spread) + 0.5 * step * (denoise(once, after) - once) + spread
            scale = twice.abs() * self.relative + self.absolute * after[..., None]
            error = ((once - twice) / scale).square().mean(-1).sqrt().clamp_min(1e-4)
            y, u = twice, torch.where(h < left, u + h, end)
            h = 0.9 * h * error.pow(-0.5).clamp(0.2, 2.0)
        raise ValueError(
            f"AdaptiveEuler did not reach level {schedule.least:g} in {self.most} steps; allow more steps "
            "(most), or larger errors (relative, absolute)"
        )


def _pairs(levels: Float[Tensor, " levels"]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(levels.tolist()))


def _ancestral(y: Tensor, value: Tensor, s: float, after: float, generator: torch.Generator) -> Tensor:
    kept = (after / s) ** 2
    return value + kept * (y - value) + after * math.sqrt(1 - kept) * noise_like(y, generator)


def _taylor(s: float, after: float, points: int = 200) -> tuple[float, float, float]:
    """The factor R of y and the factors of D' and D'' in a step from level s to level `after`.

    Args:
        s: Level at which the step begins.
        after: Level at which the step ends.
        points: Number of points of the trapezoidal rule for the integrals.
    """
    nodes = torch.linspace(math.log(after), math.log(s), points, dtype=torch.float64).exp()
    phi = nodes * (nodes.pow(0.3).exp() + 10)
    ratio, last = float(phi[0] / phi[-1]), float(phi[0])
    first = after - s + last * float(torch.trapezoid(1 / phi, nodes))
    second = 0.5 * (after - s) ** 2 + last * float(torch.trapezoid((nodes - s) / phi, nodes))
    return ratio, first, second


def _slope(late: tuple[float, Tensor], early: tuple[float, Tensor]) -> Tensor:
    return (late[1] - early[1]) / (late[0] - early[0])
