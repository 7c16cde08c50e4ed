r"""The learning rate as a function of the step, and nothing else.

With S steps in all, W = round(w S) of them (at least one) warm-up, and the peak rate r, step s = 0, 1, ..., S - 1 has

    rate(s) = r (s + 1) / W                                                    for s < W,
    rate(s) = r (f + (1 - f) (1 + cos(pi u)) / 2),  u = (s - W) / (S - W)      after,

where f = 0 for "one-cycle", f = 0.1 for "cosine", and "constant" stays at r after the warm-up. "one-cycle" ends at
nothing and is best where the number of steps is known; "cosine" keeps learning to the end; "constant" suits averages
of the weights, which take over what the falling rate does. When the batch grows by a factor b the peak is scaled by
sqrt(b): the noise of the step, not the step, is then what stays the same under an adaptive optimiser.

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
    """The learning rate of each step.

    Args:
        shape: "one-cycle", "cosine" or "constant".
        peak: Largest rate.
        steps: Steps in all, at least 1.
        warm_up: Fraction of them over which the rate rises.
    """

    shape: str
    peak: float
    steps: int
    warm_up: float

    def __post_init__(self) -> None:
        if self.shape not in FLOORS:
            raise ValueError(f"the schedule {self.shape!r} is not known; expected one of {list(FLOORS)}")

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        rise = max(1, round(self.warm_up * self.steps))
        if step < rise:
            return self.peak * (step + 1) / rise
        floor = FLOORS[self.shape]
        fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))
        return self.peak * (floor + (1 - floor) * fall)


def scaled_rate(rate: float, batch: float, other: float) -> float:
    """The rate for batches of `other` rows that goes with `rate` for batches of `batch` rows: the root rule."""
    return rate * math.sqrt(other / batch)
