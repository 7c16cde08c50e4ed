r"""The classical Runge-Kutta method of order four with fixed steps, for a whole batch at once.

For dy/dt = f(t, y), one step of length h from (t, y) is

    k1 = f(t, y),   k2 = f(t + h/2, y + h/2 k1),   k3 = f(t + h/2, y + h/2 k2),   k4 = f(t + h, y + h k3),
    y(t + h) = y + h/6 (k1 + 2 k2 + 2 k3 + k4) + O(h^5).

All rows have the same steps, so a row's solution does not depend on the other rows. The result is differentiable, and
the same program runs on any device. Positive quantities that span decades are best solved in their logarithms. Then the
relative accuracy stays the same for tiny values, and no step can make a value negative.

A step of a small system is dozens of operations on short rows. Each operation has a cost to start, and moves its data
through memory. With `compile=True`, torch.compile makes one program of several steps. The compilation takes 15 to 20
seconds, and again for each new field or dtype. Fused operations change the last bits of the results, so `compile=True`
is not the default. Times on one thread of a CPU: the benchmark's Lotka-Volterra (1,512 steps) went from 51 to 15
microseconds per row in batches of 1,000. In batches of 8,192 it went from 13 to 9. The compilation pays off from
500,000 rows and 4 million rows on, respectively. SIR (306 steps, compiled two at a time) gained nothing in batches of
1,000. In batches of 8,192 SIR became slower, with 9 instead of 5 microseconds per row. Measure before you use
`compile=True`.

References: Solving Ordinary Differential Equations I, section II.1 (Hairer, Norsett, Wanner, 1993),
https://doi.org/10.1007/978-3-540-78862-1
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

Field = Callable[[Any, Tensor], Tensor]
"""Right-hand side f(t, state) -> d state / dt, of the state's shape and dtype; t is a plain number, or a tensor of
shape () where steps are compiled."""

UNROLLED = 8  # Largest number of steps in one compiled program.


def rk4(
    field: Field,
    state: Tensor,
    times: Sequence[float] | Tensor,
    *,
    steps_per_interval: int,
    compile: bool = False,
) -> Tensor:
    """Solve dy/dt = field(t, y) at the given times, from the state at the first time.

    Args:
        field: Right-hand side f(t, y). Its second argument has the shape of `state`.
        state: State at `times[0]`, floating point, of any shape. The result has the same dtype and device.
        times: Two or more times of the solution, increasing, or decreasing to solve backwards.
        steps_per_interval: Number of equal steps between one time and the next, at least 1.
        compile: Whether to compile the steps with torch.compile. The field must then use tensor operations alone
        (torch.sin(t), not math.sin(t)), and must not record its calls.

    Returns:
        States at the times, (len(times), *state.shape). The first one is `state` itself. A row that diverges contains
        infinities or NaN, and does not affect other rows.

    Raises:
        TypeError: If the state is not floating point.
        ValueError: If there are fewer than two times, if they are out of order, or if `steps_per_interval` is below 1.

    Warns:
        UserWarning: If the steps do not compile, with the reason. They then run without compilation.

    Examples:
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
    run = _compiled(field, state, steps_per_interval) if compile else None
    states = [state]
    for begin, gap in zip(moments, gaps, strict=False):
        h = gap / steps_per_interval
        state = run(state, begin, h) if run else _steps(field, state, begin, h, steps_per_interval)
        states.append(state)
    return torch.stack(states)


def _steps(field: Field, y: Tensor, t: Any, h: Any, count: int) -> Tensor:
    for step in range(count):
        y = _step(field, y, t + step * h, h)
    return y


def _step(field: Field, y: Tensor, t: Any, h: Any) -> Tensor:
    k1 = field(t, y)
    k2 = field(t + h / 2, _plus(y, h / 2, k1))
    k3 = field(t + h / 2, _plus(y, h / 2, k2))
    k4 = field(t + h, _plus(y, h, k3))
    return _plus(y, h / 6, torch.add(k1 + k4, k2 + k3, alpha=2))


def _plus(y: Tensor, h: Any, k: Tensor) -> Tensor:
    """y + h k, computed in one operation if h is a plain number."""
    return y + h * k if isinstance(h, Tensor) else torch.add(y, k, alpha=h)


def _compiled(field: Field, state: Tensor, count: int) -> Callable[[Tensor, float, float], Tensor] | None:
    """A function that makes `count` compiled steps of length h from (state, t).

    None, with a warning, if the compilation fails.
    """
    unrolled = max(n for n in range(1, UNROLLED + 1) if count % n == 0)
    program = _program()

    def run(y: Tensor, t: float, h: float) -> Tensor:
        # Tensors, because torch would compile again for each new value of a plain number.
        length = torch.tensor(h, dtype=torch.float64)
        for step in range(0, count, unrolled):
            y = program(field, y, torch.tensor(t + step * h, dtype=torch.float64), length, unrolled)
        return y

    try:
        program(field, state, torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64), unrolled)
    except Exception as error:
        reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
        warnings.warn(f"the steps do not compile, so they are run as written: {reason}", stacklevel=3)
        return None
    return run


@cache
def _program() -> Callable[..., Tensor]:
    return torch.compile(_steps, fullgraph=True)
