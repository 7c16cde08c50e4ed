"""Solutions of ordinary differential equations at given times, with a largest step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sciinf.networks.ode import Field, rk4


def frames(field: Field, state: Tensor, times: Sequence[float], *, longest: float) -> Tensor:
    """Solve dy/dt = field(t, y) from time 0 on by the classical Runge-Kutta method.

    Args:
        field: Right-hand side of the equation, in the form that `rk4` takes.
        state: State y at time 0, (batch, *state).
        times: Output times, increasing, none below 0.
        longest: Largest step. Each interval is divided into equal steps no longer than this.

    Returns:
        State at each time, (batch, len(times), *state).

    Raises:
        ValueError: If times are out of order, below 0 or empty, or the largest step is not positive.
    """
    found = []
    for before, after, count in intervals(times, longest):
        if count:
            state = rk4(field, state, (before, after), steps_per_interval=count)[-1]
        found.append(state)
    return torch.stack(found, dim=1)


def intervals(times: Sequence[float], longest: float) -> list[tuple[float, float, int]]:
    """Intervals from 0 to the first time and from each time to the next: (start, end, number of equal steps).

    Args:
        times: Times in increasing order, none below 0.
        longest: Largest step of an interval.

    Raises:
        ValueError: If times are out of order, below 0 or empty, or the largest step is not positive.
    """
    if not times or times[0] < 0 or any(after <= before for before, after in itertools.pairwise(times)):
        raise ValueError(f"times are {tuple(times)}, expected one or more, increasing, none below 0")
    if not longest > 0:
        raise ValueError(f"the longest step is {longest}, expected a positive time")
    pairs = itertools.pairwise((0.0, *times))
    return [(before, after, math.ceil((after - before) / longest - 1e-9)) for before, after in pairs]


def spacing(times: Sequence[float]) -> float:
    """Mean interval between consecutive times, which must be evenly spaced.

    Raises:
        ValueError: If the times are not evenly spaced.
    """
    apart = [after - before for before, after in itertools.pairwise(times)]
    if max(apart) - min(apart) > 1e-6 * max(apart):
        raise ValueError(f"frames are {min(apart):g} to {max(apart):g} apart; expected times that are evenly spaced")
    return (times[-1] - times[0]) / len(apart)
