r"""What it costs to solve an equation whose right-hand side is learned, as a number that training can lower.

A solver whose steps adapt takes as many as local errors and stiffness ask for. Both are there in what it computes
anyway. For dy/dt = f(t, y) and a step of length h from (t, y), with Bogacki and Shampine's pair of orders 3 and 2,

    E = h sum_i (b_i - b*_i) k_i / (1 + max(|y|, |y'|)),

and, where two stages of a step belong to one time, as t + h/2 in the classical method of order 4 (k_2 and k_3),

    S = |k_3 - k_2| / |y_3 - y_2|,    y_2 = y + h/2 k_1,    y_3 = y + h/2 k_2,

an estimate of the largest rate of f, from below. Added to a loss, they make a field that is cheap to solve:

    R_E = sum_j E_j |h_j| / T,    R_S = sum_j S_j |h_j| / T,    T = sum_j |h_j|,

with slopes through the whole solution, are the first paper's, as its authors' code weighs the steps, but for the 1 / T.
One step at random, from a state that is held constant, is the second's. The steps here are those of training, not of
the solver that is used later.

References:
    | Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing Internal Solver Heuristics
      (Pal et al., 2021), https://arxiv.org/abs/2105.03918
    | Locally Regularized Neural Differential Equations: Some Black Boxes Were Meant to Remain Closed!
      (Pal, Edelman & Rackauckas, 2023), https://arxiv.org/abs/2303.02262
    | A 3(2) pair of Runge-Kutta formulas (Bogacki & Shampine, 1989), https://doi.org/10.1016/0893-9659(89)90079-7
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Rate = Callable[[Any, Tensor], Tensor]
"""f(t, y), y (*rows, D), to (*rows, D)."""

States = Sequence[Tensor] | Tensor
"""A solution, (*rows, D) at each time."""

_SMALL = 1e-14  # added to a mean square, so that its root has a slope at 0


def local_error(rate: Rate, t: Any, y: Float[Tensor, "*rows dim"], h: Any) -> Float[Tensor, "*rows dim"]:
    """E: difference of Bogacki and Shampine's solutions of orders 3 and 2 after a step of h, relative to 1 + |y|.

    Args:
        rate: f.
        t: Time, as f takes it.
        y: State.
        h: Length of the step, a number or (*rows, 1).
    """
    k1 = rate(t, y)
    k2 = rate(t + h / 2, y + h / 2 * k1)
    k3 = rate(t + 3 * h / 4, y + 3 * h / 4 * k2)
    end = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
    k4 = rate(t + h, end)
    difference = h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)
    return difference / (1 + torch.maximum(y.abs(), end.abs()).detach())


def stiffness(rate: Rate, t: Any, y: Float[Tensor, "*rows dim"], h: Any) -> Float[Tensor, "*rows"]:
    """S of each row, per unit of time: how fast the field changes from one place to another at one time.

    It is 0 for a field that is the same at both places, and damped to 0 where these are as near each other as rounding.
    Arguments as for `local_error`.
    """
    k1 = rate(t, y)
    k2 = rate(t + h / 2, y + h / 2 * k1)
    k3 = rate(t + h / 2, y + h / 2 * k2)
    apart, moved = (k3 - k2).square().sum(-1), (0.5 * h * (k2 - k1)).square().sum(-1)
    return (apart / (moved + torch.finfo(y.dtype).eps ** 1.5) + _SMALL).sqrt()


def rms(value: Tensor) -> Float[Tensor, ""]:
    """Root mean square, with a slope at 0."""
    return (value.square().mean() + _SMALL).sqrt()


def error_sum(rate: Rate, times: Sequence[Any], states: States) -> Float[Tensor, ""]:
    """R_E, the rms of E |h| over rows and numbers at each step.

    Args:
        rate: f.
        times: Of the states, at least two, each a number or (*rows, 1), as f takes them.
        states: A solution, (*rows, D) at each time, of which the last may be left out; slopes go through them.
    """
    return _over_steps(lambda t, y, h: rms(local_error(rate, t, y, h) * abs(h)), times, states)


def stiffness_sum(rate: Rate, times: Sequence[Any], states: States) -> Float[Tensor, ""]:
    """R_S, the mean over rows of S |h| at each step; arguments as for `error_sum`."""
    return _over_steps(lambda t, y, h: (stiffness(rate, t, y, h)[..., None] * abs(h)).mean(), times, states)


COSTS = {"sum": error_sum, "stiffness": stiffness_sum}
"""What training may penalise of a whole solution, by name."""


def _over_steps(cost: Callable[[Any, Tensor, Any], Tensor], times: Sequence[Any], states: States) -> Tensor:
    """The sum of what steps cost, by time, state and length, over T, on average over rows."""
    steps = zip(pairwise(times), states, strict=False)
    span = abs(times[-1] - times[0])
    total = torch.stack([cost(start, y, end - start) for (start, end), y in steps]).sum()
    return total / (span.mean() if isinstance(span, Tensor) else span)
