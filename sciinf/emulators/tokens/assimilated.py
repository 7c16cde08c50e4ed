r"""The linear guess of innovations from what sensors see of fields.

Frames are an affine function of innovations z, f(z) = f(0) + J z, whose linear part z is taken to be N(0, I). Sensors
see y = M f(z) + e at some points, M picks them, e ~ N(0, R). The mean of z then solves

    (I + J^T M^T R^{-1} M J) z = J^T M^T R^{-1} (y - M f(0)),

the Kalman filter's update over all frames at once. Conjugate gradients, each step of which takes J and J^T once, are
exact after as many steps as points are seen; a few do, for what is left is learned. Where the law is linear and
Gaussian z is the posterior mean; elsewhere it is a place to begin.

References:
    | A New Approach to Linear Filtering and Prediction Problems (Kalman, 1960), https://doi.org/10.1115/1.3662552
    | Methods of Conjugate Gradients for Solving Linear Systems (Hestenes & Stiefel, 1952),
      https://doi.org/10.6028/jres.049.044
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_STEPS = 4
_SOLVED = 1e-8  # of the squared right-hand side, where a row is done


@torch.no_grad()
def guessed(
    fields: Callable[[Tensor], Tensor],
    seen: Float[Tensor, "batch ..."],
    precision: Float[Tensor, "batch ..."],
    like: Float[Tensor, "batch ..."],
    *,
    steps: int = _STEPS,
) -> Float[Tensor, "batch ..."]:
    """z of what is seen.

    Args:
        fields: f, affine, from z to fields, each row by itself.
        seen: y - M f(0), in the layout of fields; what is not seen does not count.
        precision: The diagonal of R^{-1}, 0 where nothing is seen.
        like: Any z.
        steps: Of conjugate gradients.
    """
    nothing = torch.zeros_like(like)
    base = fields(nothing)

    def back(weight: Tensor) -> Tensor:
        with torch.enable_grad():
            z = nothing.clone().requires_grad_()
            return torch.autograd.grad((fields(z) * weight).sum(), z)[0]

    def each(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).flatten(1).sum(1).reshape(-1, *[1] * (like.ndim - 1))

    found, left = nothing, back(precision * seen)
    way, size = left, each(left, left)
    done = _SOLVED * size
    for _ in range(steps):
        going = size > done
        moved = way + back(precision * (fields(way) - base))
        step = torch.where(going, size / each(way, moved).clamp_min(1e-30), torch.zeros_like(size))
        found, left = found + step * way, left - step * moved
        new = each(left, left)
        way = left + torch.where(going, new / size.clamp_min(1e-30), torch.zeros_like(size)) * way
        size = new
    return found
