r"""Exponential time differencing of order four, for equations whose stiff part is diagonal in Fourier space.

The equation is dv/dt = L v + N(v), where L is a number for every mode. One step of length h is

    a = e^{Lh/2} v + h/2 phi_1(Lh/2) N(v),             b = e^{Lh/2} v + h/2 phi_1(Lh/2) N(a),
    c = e^{Lh/2} a + h/2 phi_1(Lh/2) (2 N(b) - N(v)),
    v' = e^{Lh} v + h (f_1 N(v) + 2 f_2 (N(a) + N(b)) + f_3 N(c)),

    f_1 = phi_1 - 3 phi_2 + 4 phi_3,   f_2 = phi_2 - 2 phi_3,   f_3 = 4 phi_3 - phi_2     at z = Lh,

with phi_1 = (e^z - 1) / z and phi_{k+1} = (phi_k - 1/k!) / z. These formulas cancel near z = 0, so that each phi_k is
computed as a mean over a circle around z. L is treated exactly: a step only needs to resolve N.

The stochastic equation is dv = (L v + N(v)) dt + dW, where W is a Wiener process with independent modes. S(v) is the
step above. n is the noise that v would gather in one step if N were 0. Its variance is (e^{2 L h} - 1) / 2 L times the
variance of W after one unit of time. One step is

    v' = S(v + n / 2) - e^{Lh} n / 2 + n :

N sees half of the noise, as on average during the step. If N = 0, the distribution is exact for steps of any length.

References:
    | Fourth-Order Time-Stepping for Stiff PDEs (Kassam & Trefethen, 2005), https://doi.org/10.1137/S1064827502410633
    | Exponential Time Differencing for Stiff Systems (Cox & Matthews, 2002), https://doi.org/10.1006/jcph.2002.6995
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciinf.simulators.dynamics.frames import intervals
from sciinf.simulators.dynamics.grid import BoxGrid

# Number of points on the circle around z. For real z the upper half suffices: the lower half has the same real parts.
_CIRCLE = 16


@dataclass(frozen=True)
class ExponentialStep:
    """Coefficients of one step of length h, for modes whose shape broadcasts with that of L.

    Attributes:
        half: e^{Lh/2}.
        whole: e^{Lh}.
        inner: h/2 phi_1(Lh/2).
        first, middle, last: h f_1, 2 h f_2, h f_3.
    """

    half: Tensor
    whole: Tensor
    inner: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor

    @classmethod
    def of(cls, linear: Tensor, length: float) -> ExponentialStep:
        """Coefficients of a step of the given length. `linear` is L, real or complex, in double precision."""
        z, phi = linear * length, [torch.zeros_like(linear, dtype=torch.complex128) for _ in range(4)]
        points = _CIRCLE if linear.is_complex() else _CIRCLE // 2
        for k in range(points):
            angle = math.pi * (2 * k + 1) / _CIRCLE
            around = z + complex(math.cos(angle), math.sin(angle))
            p1 = torch.expm1(around) / around
            p2 = (p1 - 1) / around
            p3 = (p2 - 0.5) / around
            near = z / 2 + complex(math.cos(angle), math.sin(angle))
            for total, part in zip(phi, (torch.expm1(near) / near, p1, p2, p3), strict=True):
                total += part / points
        kept: list[Tensor] = [p if linear.is_complex() else p.real for p in phi]
        inner, p1, p2, p3 = kept
        parts = (length / 2 * inner, p1 - 3 * p2 + 4 * p3, 2 * (p2 - 2 * p3), 4 * p3 - p2)
        return cls((z / 2).exp(), z.exp(), parts[0], *(length * part for part in parts[1:]))

    def __call__(self, modes: Tensor, rest: Callable[[Tensor], Tensor]) -> Tensor:
        """Modes after one step, where the function `rest` is N."""
        start = rest(modes)
        moved = self.half * modes
        a = moved + self.inner * start
        at_a = rest(a)
        b = moved + self.inner * at_a
        at_b = rest(b)
        c = self.half * a + self.inner * (2 * at_b - start)
        return self.whole * modes + self.first * start + self.middle * (at_a + at_b) + self.last * rest(c)


def solve(
    modes: Tensor,
    linear: Tensor,
    rest: Callable[[Tensor], Tensor],
    times: Sequence[float],
    *,
    longest: float,
    noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Solve dv/dt = L v + N(v), or the same equation with noise, from time 0.

    Args:
        modes: Modes v at time 0, (batch, *modes).
        linear: Factor L of each mode. Its shape broadcasts with `modes`, and its device is the same.
        rest: Nonlinear part N, a function of modes.
        times: Output times, increasing, none below 0.
        longest: Largest step. Each interval is divided into equal steps no longer than this.
        noise: Function that draws the value of W after one unit of time, of the shape of `modes`. L must be real then.
            Omit it for an equation without noise.

    Returns:
        Modes at each time, (batch, len(times), *modes).

    Raises:
        ValueError: If times are out of order, below 0 or empty, or the largest step is not positive.
    """
    found, steps = [], {}
    for before, after, count in intervals(times, longest):
        length = round((after - before) / max(count, 1), 15)
        if count and length not in steps:
            steps[length] = ExponentialStep.of(linear, length), None if noise is None else gathered(linear, length)
        for _ in range(count):
            step, part = steps[length]
            if noise is None:
                modes = step(modes, rest)
            else:
                gain = part * noise()
                modes = step(modes + 0.5 * gain, rest) + (1 - 0.5 * step.whole) * gain
        found.append(modes)
    return torch.stack(found, dim=1)


def gathered(linear: Tensor, time: float) -> Tensor:
    """Sd of v at a time t, where dv = L v dt + dW and v(0) = 0: the square root of (e^{2 L t} - 1) / 2 L.

    L is real and at most 0.
    """
    rate = (-2 * linear).clamp_min(1e-12)
    return (-torch.expm1(-rate * time) / rate).sqrt()


def linear_law(grid: BoxGrid, initial: Tensor, linear: Tensor, driven: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a Gaussian field on a ring at one time, where the modes follow dv = L v dt + dW.

    Args:
        grid: Periodic grid with one direction.
        initial: Fields at time 0, (batch, 1, points).
        linear: Factor L of each mode, real and at most 0, (batch, 1, mode).
        driven: Factor of each mode that turns white noise on the grid into W after one unit of time,
            (batch, 1, mode).
        time: Time of the result, above 0.

    Returns:
        Mean, (batch, 1, points), and covariance, (batch, points, points), float64.
    """
    mean = grid.back(grid.transformed(initial.double()) * (linear * time).exp())
    unit = torch.eye(grid.shape[0], dtype=torch.float64)
    spread = grid.back(grid.transformed(unit)[None] * driven * gathered(linear, time))
    return mean, spread.mT @ spread


def refined(modes: Tensor, points: int, before: int) -> Tensor:
    """Fourier coefficients of a function on a finer grid of one direction.

    Args:
        modes: Coefficients on `before` points, (..., before // 2 + 1).
        points: Number of points of the finer grid.
        before: Number of points of the coarser grid.
    """
    wider = torch.zeros(*modes.shape[:-1], points // 2 + 1, dtype=modes.dtype, device=modes.device)
    wider[..., : modes.shape[-1]] = modes * (points / before)
    wider[..., modes.shape[-1] - 1] *= 0.5 if before % 2 == 0 else 1.0
    return wider
