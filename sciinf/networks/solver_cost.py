r"""Cost of solving a differential equation whose right-hand side is learned, as a number that training can reduce.

The number of steps of an adaptive solver depends on its local errors and on stiffness. Both can be estimated from
values that the solver computes anyway. For dy/dt = f(t, y) and a step of length h from (t, y), the local error is, with
Bogacki and Shampine's pair of orders 3 and 2,

    E = h sum_i (b_i - b*_i) k_i / (1 + max(|y|, |y'|)).

Stiffness is estimated from two stages of a step at the same time. In the classical method of order 4, the stages k_2
and k_3 both have the time t + h/2:

    S = |k_3 - k_2| / |y_3 - y_2|,    y_2 = y + h/2 k_1,    y_3 = y + h/2 k_2.

S is a lower estimate of the largest rate of f. If such costs are added to a loss, training finds a field that is cheap
to solve:

    R_E = sum_j E_j |h_j| / T,    R_S = sum_j S_j |h_j| / T,    T = sum_j |h_j|,

R_E and R_S are the first paper's costs, with gradients through the whole solution. The steps are weighted as in its
authors' code, except for the factor 1 / T. The second paper uses one random step, from a state that is held constant.
The steps here are the steps of training. The solver that is used later may take other steps.

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

_SMALL = 1e-14  # Added to a mean square, so that its root has a finite gradient at 0.


def local_error(rate: Rate, t: Any, y: Float[Tensor, "*rows dim"], h: Any) -> Float[Tensor, "*rows dim"]:
    """E: difference of Bogacki and Shampine's solutions of orders 3 and 2 after one step, relative to the state.

    The difference is divided by 1 + max(|y|, |y'|), with y and y' the states before and after the step.

    Args:
        rate: f, the right-hand side.
        t: Time at the start of the step, as f takes it.
        y: State at the start of the step.
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
    """S of each row, per unit of time: the rate at which the field changes from one state to another at one time.

    S is 0 if the field is equal at both states. S is damped to 0 if the states differ only by rounding. The arguments
    are those of `local_error`.
    """
    k1 = rate(t, y)
    k2 = rate(t + h / 2, y + h / 2 * k1)
    k3 = rate(t + h / 2, y + h / 2 * k2)
    apart, moved = (k3 - k2).square().sum(-1), (0.5 * h * (k2 - k1)).square().sum(-1)
    return (apart / (moved + torch.finfo(y.dtype).eps ** 1.5) + _SMALL).sqrt()


def rms(value: Tensor) -> Float[Tensor, ""]:
    """Root mean square, with a finite gradient at 0."""
    return (value.square().mean() + _SMALL).sqrt()


def error_sum(rate: Rate, times: Sequence[Any], states: States) -> Float[Tensor, ""]:
    """R_E: time average of the local error E, whose rms over rows and dimensions is taken at each step.

    Args:
        rate: f, the right-hand side.
        times: Times of the states, at least two, each a number or (*rows, 1), as f takes them.
        states: Solution, (*rows, D) at each time; the last state may be left out. Gradients go through the states.
    """
    return _over_steps(lambda t, y, h: rms(local_error(rate, t, y, h) * abs(h)), times, states)


def stiffness_sum(rate: Rate, times: Sequence[Any], states: States) -> Float[Tensor, ""]:
    """R_S: time average of the stiffness S, whose mean over rows is taken at each step.

    The arguments are those of `error_sum`.
    """
    return _over_steps(lambda t, y, h: (stiffness(rate, t, y, h)[..., None] * abs(h)).mean(), times, states)


COSTS = {"sum": error_sum, "stiffness": stiffness_sum}
"""What training may penalise of a whole solution, by name."""


def _over_steps(cost: Callable[[Any, Tensor, Any], Tensor], times: Sequence[Any], states: States) -> Tensor:
    """Sum of the costs of all steps divided by the duration T, averaged over rows.

    Args:
        cost: Cost of one step, as a function of time, state and step length.
        times: Times of the states.
        states: Solution at each time.
    """
    steps = zip(pairwise(times), states, strict=False)
    span = abs(times[-1] - times[0])
    total = torch.stack([cost(start, y, end - start) for (start, end), y in steps]).sum()
    return total / (span.mean() if isinstance(span, Tensor) else span)
