r"""Linear estimate of innovations from sensors' readings of fields.

Frames are an affine function of innovations z, f(z) = f(0) + J z, and z is taken to be N(0, I). Sensors observe y = M
f(z) + e at some points. M selects these points, and e ~ N(0, R). The mean of z then solves

    (I + J^T M^T R^{-1} M J) z = J^T M^T R^{-1} (y - M f(0)),

the Kalman filter's update over all frames at once. Conjugate gradients solve it. Each step applies J and J^T once. The
result is exact after as many steps as observed points; a few steps are enough, because the network learns the rest.
Where the distribution is linear and Gaussian, the exact z is the posterior mean. Elsewhere it is a starting point.

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
_SOLVED = 1e-8  # A row is solved when its squared residual is this fraction of the squared right-hand side.


@torch.no_grad()
def guessed(
    fields: Callable[[Tensor], Tensor],
    seen: Float[Tensor, "batch ..."],
    precision: Float[Tensor, "batch ..."],
    like: Float[Tensor, "batch ..."],
    *,
    steps: int = _STEPS,
) -> Float[Tensor, "batch ..."]:
    """Linear estimate of z from what sensors observe.

    Args:
        fields: f, an affine function from z to fields, each row separately.
        seen: y - M f(0), in the layout of fields; values without an observation have no effect.
        precision: The diagonal of R^{-1}, 0 where nothing is observed.
        like: Any tensor with the shape of z.
        steps: Number of conjugate-gradient steps.
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
