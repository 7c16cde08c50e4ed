r"""From noise to data along the reverse process itself, noise and all.

In y = x_t / alpha the reverse process runs in u = -log s, which grows as noise goes, as

    dy = 2 (D(y, s) - y) du + sqrt(2) s dW,

D the denoiser (see `solver`). Noise put in on the way makes up for errors made before, so a denoiser that is not exact
is served better than by the deterministic flow; a step of the same length is less accurate. With r = s'/s, e ~ N(0, I):

| solver | step | order | evaluations for N steps |
|---|---|---|---|
| `Ancestral` | y' = D + r^2 (y - D) + s' sqrt(1 - r^2) e: the law of y' given y and x_0 = D | 1 | N |
| `ReverseEulerMaruyama` | y' = y + 2 log(1/r) (D - y) + s sqrt(1 - r^2) e | 1 | N |
| `PredictorCorrector` | `Ancestral`, then c steps of Langevin at the new level | 1 | (1 + c) N |
| `ExtendedReverse` | y' = R y + (1 - R) D + (Taylor terms) + sqrt(s'^2 - R^2 s^2) e, R = phi(s')/phi(s) | terms | N |
| `AdaptiveEuler` | Euler-Maruyama, improved; how far it was off decides the next step | 2 | as the tolerance asks |

`ExtendedReverse` (ER-SDE) is the family of processes with the same law at each level but noise of their own amount,
which phi sets: phi(s) = s is the probability flow, phi(s) = s^2 the reverse process. Exactly,

    y' = R y + phi(s') int_{s'}^{s} phi'(v) / phi(v)^2 D(y(v), v) dv + noise,

and with D a Taylor series at s, whose derivatives are divided differences of its last values,

    ... = R y + (1 - R) D + (s' - s + phi(s') int_{s'}^{s} dv / phi(v)) D'
        + ((s' - s)^2 / 2 + phi(s') int_{s'}^{s} (v - s) / phi(v) dv) D''.

As phi lets in little noise, expectations converge with the order of the series, as far as draws can tell.

The paper of `AdaptiveEuler` rejects a step whose two ends differ much and takes a shorter one with new noise. But they
differ most where the noise was largest, so this takes variance out of the draws, the more the tighter the tolerance.
Here every step is taken, and its error sets the length of the next, which then depends on the past alone.

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
    """Draws y' from its law given y, as if x_0 were D.

    Args:
        steps: N.
        grid: Where it stops.

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
    """The plain method, to measure others against.

    Args:
        steps: N; above log(most / least) of the path, or it diverges.
        grid: Where it stops.

    Raises:
        ValueError: If steps is no int of at least 1; when solving, if a step is too long to be stable.
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
                    f"{self.steps} steps of EulerMaruyama from level {schedule.most:g} to {schedule.least:g} are too "
                    "long to be stable; take more, or Ancestral, which any step suits"
                )
            drift = 2 * h * (denoise(y, y.new_tensor(s)) - y)
            y = y + drift + math.sqrt(s * s - after * after) * noise_like(y, generator)
        return y


class PredictorCorrector(Solver):
    """`Ancestral`, with steps of Langevin dynamics at each level reached.

    Args:
        steps: N.
        corrections: c, Langevin steps at each level.
        ratio: The length of such a step in units of s, sqrt(2) ratio; at most 0.7 is stable.
        grid: Where it stops.

    Raises:
        ValueError: If steps or corrections is no int of at least 1 or the ratio not in (0, 0.7].
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
        step = 2 * self.ratio**2  # in units of s^2, which is at least the variance of y at that level
        for s, after in _pairs(self.grid.levels(schedule, self.steps)):
            y = _ancestral(y, denoise(y, y.new_tensor(s)), s, after, generator)
            for _ in range(self.corrections):
                drift = step * (denoise(y, y.new_tensor(after)) - y)
                y = y + drift + math.sqrt(2 * step) * after * noise_like(y, generator)
        return y


class ExtendedReverse(Solver):
    """ER-SDE with the amount of noise that its authors found best, phi(s) = s (exp(s^0.3) + 10).

    Args:
        steps: N.
        terms: 1, 2 or 3 values of D that a step rests on.
        grid: Where it stops.

    Raises:
        ValueError: If steps is no int of at least 1, or terms none of them.
    """

    def __init__(self, steps: int = 30, terms: int = 3, grid: Grid | None = None) -> None:
        check_whole("steps", steps, 1)
        if terms not in (1, 2, 3):
            raise ValueError(f"ExtendedReverse has 1, 2 or 3 terms, got {terms}")
        self.steps, self.terms, self.order, self.grid = steps, terms, terms, grid or Geometric()

    def evaluations(self) -> int:
        return self.steps

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        known: list[tuple[float, Tensor]] = []  # levels and values of D, the latest first
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
    """Steps as long as each row bears: of two evaluations the second improves the first and says how far it was off.

    Args:
        relative: Relative error of a step.
        absolute: The same in units of the noise level.
        most: Steps at most.

    Raises:
        ValueError: If an error is not above 0; when solving, if steps do not suffice.
    """

    order = 2

    def __init__(self, relative: float = 0.05, absolute: float = 0.05, most: int = 1_000) -> None:
        check_whole("most", most, 1)
        if not (relative > 0 and absolute > 0):
            raise ValueError(f"both errors must be above 0, got {relative} and {absolute}")
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
            f"AdaptiveEuler did not reach level {schedule.least:g} in {self.most} steps; allow more or larger errors"
        )


def _pairs(levels: Float[Tensor, " levels"]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(levels.tolist()))


def _ancestral(y: Tensor, value: Tensor, s: float, after: float, generator: torch.Generator) -> Tensor:
    kept = (after / s) ** 2
    return value + kept * (y - value) + after * math.sqrt(1 - kept) * noise_like(y, generator)


def _taylor(s: float, after: float, points: int = 200) -> tuple[float, float, float]:
    """R and the factors of D' and D''."""
    nodes = torch.linspace(math.log(after), math.log(s), points, dtype=torch.float64).exp()
    phi = nodes * (nodes.pow(0.3).exp() + 10)
    ratio, last = float(phi[0] / phi[-1]), float(phi[0])
    first = after - s + last * float(torch.trapezoid(1 / phi, nodes))
    second = 0.5 * (after - s) ** 2 + last * float(torch.trapezoid((nodes - s) / phi, nodes))
    return ratio, first, second


def _slope(late: tuple[float, Tensor], early: tuple[float, Tensor]) -> Tensor:
    return (late[1] - early[1]) / (late[0] - early[0])
