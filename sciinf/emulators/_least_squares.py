r"""Least squares by Gauss-Newton rounds of conjugate gradients.

A round takes the residual r(z) for linear around z, and finds the move d that makes |r + J d|^2 least by conjugate
gradients on J^T J d = -J^T r, in which J and its transpose are only ever applied, by automatic differentiation. It ends
when the gradient has become 3 % of what it was, or after 25 of them. A move that makes a row's |r| larger is halved, up
to four times, or else left. Rounds end when |r| of no row falls by 1 % any more.

References:
    | Methods of Conjugate Gradients for Solving Linear Systems, section 10 (Hestenes & Stiefel, 1952),
      https://doi.org/10.6028/jres.049.044
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_ROUND = 25  # conjugate gradients before the residual is linearised anew
_CLOSE = 0.03  # of the gradient at the beginning of a round ends it
_STALLED = 0.99  # of |r| left by a round ends them all

Residual = Callable[[Tensor], Tensor]
"""r; differentiable."""


def gauss_newton(residual: Residual, z: Tensor, steps: int) -> tuple[Tensor, int]:
    """Where |r|^2 is least, row by row.

    Args:
        residual: r, from (batch, ...) to (batch, ...), whose rows have nothing to do with each other.
        z: Where to begin.
        steps: Conjugate gradients at most.

    Returns:
        z, and the conjugate gradients that were taken.
    """
    size, taken = _dot(residual(z)), 0
    while taken < steps:
        move, count = _conjugate_gradients(residual, z, min(_ROUND, steps - taken))
        taken += count
        new = _dot(residual(z + move))
        for _ in range(4):
            worse = ~(new <= size)
            if not worse.any():
                break
            move = torch.where(_rows(worse, move), move / 2, move)
            new = _dot(residual(z + move))
        better = new < size
        z = torch.where(_rows(better, move), z + move, z)
        if not (new < _STALLED**2 * size).any():
            break
        size = torch.where(better, new, size)
    return z, taken


def _conjugate_gradients(residual: Residual, z: Tensor, steps: int) -> tuple[Tensor, int]:
    """Least squares of the residual linearised at z: the move from there, and how many steps it took."""
    left, back, *_ = torch.func.vjp(residual, z)
    left, move = -left, torch.zeros_like(z)
    down = back(left)[0]
    along, power = down, _dot(down)
    enough, taken = _CLOSE**2 * power, 0
    while taken < steps and bool((power > enough).any()):
        image = torch.func.jvp(residual, (z,), (along,))[1]
        far = power / _dot(image).clamp_min(1e-300)
        move = move + _rows(far, along) * along
        left = left - _rows(far, image) * image
        down = back(left)[0]
        new = _dot(down)
        along, power, taken = down + _rows(new / power.clamp_min(1e-300), along) * along, new, taken + 1
    return move, max(taken, 1)


def _dot(a: Tensor) -> Tensor:
    return a.square().flatten(1).sum(1)


def _rows(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (like.ndim - 1))
