r"""What it costs to solve an equation whose right-hand side is learned, as a number that training can lower.

A solver whose steps adapt takes as many as local errors and stiffness ask for. Both are there in what it computes
anyway. For dy/dt = f(t, y) and a step of length h from (t, y), with Bogacki and Shampine's pair of orders 3 and 2,

    E = h sum_i (b_i - b*_i) k_i / (1 + max(|y|, |y'|)),

and, where two stages of a step belong to one time, as t + h/2 in the classical method of order 4 (k_2 and k_3),

    S = |k_3 - k_2| / |y_3 - y_2|,    y_2 = y + h/2 k_1,    y_3 = y + h/2 k_2,

an estimate of the largest rate of f. Added to a loss, they make a field that is cheap to solve. The sums over a whole
solution, with slopes through all of it, are the first paper's; one step at random, from a state that is held constant,
is the second's. On steps of equal length the sum over steps of E |h| is their mean.

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

_SMALL = 1e-14  # added to a mean square, so that its root has a slope at 0


def local_error(rate: Rate, t: Any, y: Float[Tensor, "*rows dim"], h: float) -> Float[Tensor, "*rows dim"]:
    """E: difference of Bogacki and Shampine's solutions of orders 3 and 2 after a step of h, relative to 1 + |y|."""
    k1 = rate(t, y)
    k2 = rate(t + h / 2, y + h / 2 * k1)
    k3 = rate(t + 3 * h / 4, y + 3 * h / 4 * k2)
    end = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
    k4 = rate(t + h, end)
    difference = h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)
    return difference / (1 + torch.maximum(y.abs(), end.abs()).detach())


def stiffness(rate: Rate, t: Any, y: Float[Tensor, "*rows dim"], h: float) -> Float[Tensor, "*rows"]:
    """S of each row: how fast the field changes from one place to another at one time, per unit of time."""
    k1 = rate(t, y)
    k2 = rate(t + h / 2, y + h / 2 * k1)
    k3 = rate(t + h / 2, y + h / 2 * k2)
    apart, moved = (k3 - k2).square().sum(-1), (0.5 * h * (k2 - k1)).square().sum(-1)
    return ((apart + _SMALL) / (moved + _SMALL)).sqrt()


def rms(value: Tensor) -> Float[Tensor, ""]:
    """Root mean square, with a slope at 0."""
    return (value.square().mean() + _SMALL).sqrt()


def error_sum(rate: Rate, times: Sequence[float], states: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Sum over steps of rms(E) |h|, over the time of them all.

    Args:
        rate: f.
        times: Of the states, at least two.
        states: A solution, (*rows, D) at each time; slopes go through them.
    """
    steps = list(zip(pairwise(times), states, strict=False))
    found = [rms(local_error(rate, start, y, end - start)) * abs(end - start) for (start, end), y in steps]
    return torch.stack(found).sum() / abs(times[-1] - times[0])


def stiffness_mean(rate: Rate, times: Sequence[float], states: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean of S over steps and rows; arguments as for `error_sum`."""
    steps = list(zip(pairwise(times), states, strict=False))
    return torch.stack([stiffness(rate, start, y, end - start).mean() for (start, end), y in steps]).mean()
