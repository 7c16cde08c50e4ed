r"""Exponential time differencing of order four, for equations whose stiff part is diagonal in Fourier space.

For dv/dt = L v + N(v), L a number for every mode, one step of length h is

    a = e^{Lh/2} v + h/2 phi_1(Lh/2) N(v),             b = e^{Lh/2} v + h/2 phi_1(Lh/2) N(a),
    c = e^{Lh/2} a + h/2 phi_1(Lh/2) (2 N(b) - N(v)),
    v' = e^{Lh} v + h (f_1 N(v) + 2 f_2 (N(a) + N(b)) + f_3 N(c)),

    f_1 = phi_1 - 3 phi_2 + 4 phi_3,   f_2 = phi_2 - 2 phi_3,   f_3 = 4 phi_3 - phi_2     at z = Lh,

with phi_1 = (e^z - 1) / z and phi_{k+1} = (phi_k - 1/k!) / z, which cancel near z = 0 and so are means over a circle
around z. L is treated exactly: steps need to resolve N alone.

Of dv = (L v + N(v)) dt + dW, W a Wiener process whose modes are independent, with S(v) the step above and n the noise
that v would have gathered during it without N, of variance (e^{2 L h} - 1) / 2 L in a unit of W's,

    v' = S(v + n / 2) - e^{Lh} n / 2 + n :

N sees half of the noise, as on average during the step, and without N the law is exact, however long the step.

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

_CIRCLE = 16  # points around z; of real z those above it will do, for the others have the same real parts


@dataclass(frozen=True)
class ExponentialStep:
    """One step, for modes of any shape that goes with L's.

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
        """The step of that length; `linear` is L, real or complex, in double precision."""
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
        """Modes one step later, N being `rest`."""
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
    """Modes at times, from those at time 0.

    Args:
        modes: (batch, *modes).
        linear: L, of a shape that goes with it, on the same device.
        rest: N.
        times: Increasing, none below 0.
        longest: Of a step; each interval has as many equal ones as that takes.
        noise: Draws W of a unit of time, of the shape of modes; L is real then.

    Returns:
        (batch, len(times), *modes).

    Raises:
        ValueError: If times are out of order, below 0 or not there, or no step can be taken.
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
    """Sd of dv = L v dt + dW at a time, from v = 0: the root of (e^{2 L t} - 1) / 2 L, L real and at most 0."""
    rate = (-2 * linear).clamp_min(1e-12)
    return (-torch.expm1(-rate * time) / rate).sqrt()


def linear_law(grid: BoxGrid, initial: Tensor, linear: Tensor, driven: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """The normal law at a time of fields on a ring whose modes follow dv = L v dt + dW.

    Args:
        grid: The ring.
        initial: Fields at time 0, (batch, 1, points).
        linear: L, real and at most 0, (batch, 1, mode).
        driven: What makes white noise on the grid dW of a unit of time: a factor of its modes, (batch, 1, mode).
        time: Above 0.

    Returns:
        Mean, (batch, 1, points), and covariance, (batch, points, points), float64.
    """
    mean = grid.back(grid.transformed(initial.double()) * (linear * time).exp())
    unit = torch.eye(grid.shape[0], dtype=torch.float64)
    spread = grid.back(grid.transformed(unit)[None] * driven * gathered(linear, time))
    return mean, spread.mT @ spread


def refined(modes: Tensor, points: int, before: int) -> Tensor:
    """Coefficients of the same function of one direction on more points, from those on `before` points."""
    wider = torch.zeros(*modes.shape[:-1], points // 2 + 1, dtype=modes.dtype, device=modes.device)
    wider[..., : modes.shape[-1]] = modes * (points / before)
    wider[..., modes.shape[-1] - 1] *= 0.5 if before % 2 == 0 else 1.0
    return wider
