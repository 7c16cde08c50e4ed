r"""The classical Runge-Kutta method of order four with fixed steps, for a whole batch at once.

For dy/dt = f(t, y), one step of length h from (t, y) is

    k1 = f(t, y),   k2 = f(t + h/2, y + h/2 k1),   k3 = f(t + h/2, y + h/2 k2),   k4 = f(t + h, y + h k3),
    y(t + h) = y + h/6 (k1 + 2 k2 + 2 k3 + k4) + O(h^5).

Steps are the same for every row, so nothing depends on what else is in the batch, the result is differentiable, and
the same program runs on any device. Positive quantities that span decades are best solved in their logarithms:
relative accuracy is then kept where they are tiny, and no step can make them negative.

References: Solving Ordinary Differential Equations I, section II.1 (Hairer, Norsett, Wanner, 1993),
https://doi.org/10.1007/978-3-540-78862-1
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Field = Callable[[float, Tensor], Tensor]
"""Right-hand side f(t, state) -> d state / dt, of the state's shape and dtype; t is a plain number."""


def rk4(field: Field, state: Tensor, times: Sequence[float] | Tensor, *, steps_per_interval: int) -> Tensor:
    """Solve dy/dt = field(t, y) from the first time on.

    Args:
        field: The right-hand side; it takes the state in whatever shape it is given here.
        state: State at `times[0]`, floating point, any shape; its dtype and device are those of the result.
        times: Where the solution is wanted, in order (increasing, or decreasing to solve backwards), two or more.
        steps_per_interval: Steps of equal length between one time and the next.

    Returns:
        States at the times, (len(times), *state.shape); the first is `state` itself. Rows that blow up hold
        infinities or NaN and leave the others alone.

    Raises:
        TypeError: If the state is not floating point.
        ValueError: If there are fewer than two times, they are out of order, or there is no step.

    Example:
        >>> rk4(lambda t, y: -y, torch.ones(1), [0.0, 1.0], steps_per_interval=10)[-1]
        tensor([0.3679])
    """
    if not state.is_floating_point():
        raise TypeError(f"the state has dtype {state.dtype}, expected floating point: pass state.float()")
    if steps_per_interval < 1:
        raise ValueError(f"steps_per_interval is {steps_per_interval}, expected 1 or more")
    moments = [float(t) for t in (times.tolist() if isinstance(times, Tensor) else times)]
    gaps = [end - begin for begin, end in itertools.pairwise(moments)]
    if not gaps or not (all(g > 0 for g in gaps) or all(g < 0 for g in gaps)):
        raise ValueError(f"times are {moments}, expected two or more in increasing (or decreasing) order")
    states = [state]
    for begin, gap in zip(moments, gaps, strict=False):
        h = gap / steps_per_interval
        for step in range(steps_per_interval):
            state = _step(field, state, begin + step * h, h)
        states.append(state)
    return torch.stack(states)


def _step(field: Field, y: Tensor, t: float, h: float) -> Tensor:
    k1 = field(t, y)
    k2 = field(t + h / 2, torch.add(y, k1, alpha=h / 2))
    k3 = field(t + h / 2, torch.add(y, k2, alpha=h / 2))
    k4 = field(t + h, torch.add(y, k3, alpha=h))
    return torch.add(y, torch.add(k1 + k4, k2 + k3, alpha=2), alpha=h / 6)
