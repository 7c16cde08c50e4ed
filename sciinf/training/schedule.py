r"""Learning-rate schedules: the learning rate as a function of the step alone.

With S steps in all, W = round(w S) of them (at least one) warm-up, and the peak rate r, step s = 0, 1, ..., S - 1 has

    rate(s) = r (s + 1) / W                                                    for s < W,
    rate(s) = r (f + (1 - f) (1 + cos(pi u)) / 2),  u = (s - W) / (S - W)      after,

where f = 0 for "one-cycle", f = 0.1 for "cosine", and "constant" stays at r after the warm-up. "one-cycle" ends at a
rate of zero and is best if the number of steps is known. "cosine" keeps learning to the end. "constant" suits averages
of the weights, which have the effect of a falling rate. When the batch grows by a factor b the peak is scaled by
sqrt(b). Under an adaptive optimiser this keeps the noise of the step constant, not the step itself.

References:
    | Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates (Smith & Topin, 2018),
      https://arxiv.org/abs/1708.07120
    | SGDR: Stochastic Gradient Descent with Warm Restarts (Loshchilov & Hutter, 2017), https://arxiv.org/abs/1608.03983
    | On the SDEs and Scaling Rules for Adaptive Gradient Algorithms (Malladi et al., 2022),
      https://arxiv.org/abs/2205.10287
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOORS = {"one-cycle": 0.0, "cosine": 0.1, "constant": 1.0}


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step, with a linear warm-up.

    Args:
        shape: "one-cycle", "cosine" or "constant".
        peak: Largest learning rate.
        steps: Total number of steps, at least 1.
        warm_up: Fraction of the steps over which the rate rises.
    """

    shape: str
    peak: float
    steps: int
    warm_up: float

    def __post_init__(self) -> None:
        if self.shape not in FLOORS:
            raise ValueError(f"the schedule {self.shape!r} is not known; expected one of {list(FLOORS)}")

    def __call__(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = max(1, round(self.warm_up * self.steps))
        if step < rise:
            return self.peak * (step + 1) / rise
        floor = FLOORS[self.shape]
        fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))
        return self.peak * (floor + (1 - floor) * fall)


def scaled_rate(rate: float, batch: float, other: float) -> float:
    """Learning rate for batches of `other` rows, from `rate` for batches of `batch` rows, by the square-root rule."""
    return rate * math.sqrt(other / batch)
