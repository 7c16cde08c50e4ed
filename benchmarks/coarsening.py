"""A surrogate against its solver made as coarse as it may be and still no less accurate: parts of `surrogates.py`.

References:
    | Weak baselines and reporting biases lead to overoptimism in machine learning for fluid-related PDEs (McGreivy &
      Hakim, 2024), https://arxiv.org/abs/2407.07218
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from reporting import seconds
from torch import Tensor

from sciinf.core import Batch, Surrogate, predicted


class Coarse:
    """An equation on a torus, built with its defaults, on fewer points with longer steps, and back to all points."""

    def __init__(self, equation: Any, points: int, longest: float) -> None:
        self.points, self.all = points, equation.grid.shape[0]
        self.solver = type(equation)(points=points, times=equation.times, longest=longest)

    def solve(self, theta: Tensor, x: Any) -> Tensor:
        directions = len(self.solver.grid.shape)
        few = with_points(x["initial"].double(), self.points, directions)
        return with_points(self.solver.solve(theta, {"initial": few}), self.all, directions)


def raced(surrogate: Surrogate, equation: Any, candidates: Sequence[Any], *, rows: int) -> dict[str, Any]:
    """A row: the surrogate and the cheapest candidate that is no less accurate, on fresh solutions.

    Errors are relative, of whole trajectories, in the mean over solutions; ms are per solution.
    """
    theta = equation.prior.sample(rows, generator=torch.Generator().manual_seed(9))
    x = equation(theta, generator=torch.Generator().manual_seed(10))
    error = float(relative(predicted(surrogate, Batch(theta, x)), x["u"]).mean())
    cost = seconds(lambda: predicted(surrogate, Batch(theta, x)), "cpu") / rows
    measured: list[tuple[float, float]] = []
    for solver in [*candidates, equation]:
        off = float(relative(solver.solve(theta.double(), x).float(), x["u"]).nan_to_num(nan=9.0).mean())
        run = seconds(lambda s=solver: s.solve(theta.double(), x), "cpu") / rows
        measured.append((run, off))
    as_good = [pair for pair in measured if pair[1] <= error]
    if not as_good:
        raise FloatingPointError(f"the surrogate of {equation.name!r} predicts what is not finite: {error}")
    run, off = min(as_good)
    return {
        "equation": equation.name,
        "surrogate error": error,
        "solver error": off,
        "surrogate ms": 1e3 * cost,
        "solver ms": 1e3 * run,
        "solver in full ms": 1e3 * measured[-1][0],
        "surrogate faster by": run / cost,
    }


def with_points(field: Tensor, points: int, directions: int) -> Tensor:
    """The waves of a field that both grids have, at as many points; the highest of an even number is left out."""
    for axis in range(-directions, 0):
        kept = (min(points, field.shape[axis]) + 1) // 2
        modes = torch.fft.rfft(field.movedim(axis, -1), norm="forward")[..., :kept]
        field = torch.fft.irfft(modes, n=points, norm="forward").movedim(-1, axis)
    return field


def relative(found: Tensor, true: Tensor) -> Tensor:
    """|found - true| / |true| of each row."""
    return (found - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
