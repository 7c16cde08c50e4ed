r"""The best noise levels for a solver with few steps, found on the trajectories of a few draws.

All trajectories of the probability flow have nearly the same shape: almost straight at high noise, then one
bend in a plane, then straight again. The best levels can therefore be found on a few trajectories and apply
to all. On a fine grid s_0 > ... > s_n with accurately solved trajectories y_0, ..., y_n, one step of the
solver from y_i to level s_j has some error at y_j. The grid of K steps

    0 = i_0 < i_1 < ... < i_K = n    that minimises    sum_k cost(i_{k-1}, i_k)

is found exactly by dynamic programming, best_k(j) = min_i best_{k-1}(i) + cost(i, j).

The cost of the paper is the error at s_j, where the step ends. On the way to the data, however, the flow
enlarges some errors and reduces others. Here the end of the step is therefore followed along the fine grid
down to s_n. The cost is the distance of the result from y_n, mean over draws (`carried`). On mixtures with
narrow modes this halves the error of draws.

The step is that of the solver that will use the grid: y + (s_j - s_i) (y - D) / s_i for
`Exponential(order=1)`, and Heun's step for `Heun`. The error of a step that uses values of earlier steps
(`Exponential` of order 2 and 3) depends on more than the pair (i, j). These solvers keep `Geometric`.

References:
    | On the Trajectory Regularity of ODE-based Diffusion Sampling (Chen et al., 2024), https://arxiv.org/abs/2405.11326
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.networks.diffusion.grid import Geometric, Grid
from sciinf.networks.diffusion.schedule import NoiseLevel, NoiseSchedule
from sciinf.networks.diffusion.solver import Denoiser, Heun


class Listed(Grid):
    """A grid of given noise levels.

    Args:
        values: Noise levels, decreasing from the highest level of a path to its lowest.

    Raises:
        ValueError: Unless there are at least two levels, decreasing, above 0 and finite. `levels` raises it
            if the solver has another number of steps, or the path has other ends.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = [float(value) for value in values]
        falling = all(before > after > 0 for before, after in itertools.pairwise(self.values))
        if len(self.values) < 2 or not falling or not self.values[0] < math.inf:
            raise ValueError(f"Listed needs two or more finite levels that fall and stay above 0, got {self.values}")

    def levels(self, schedule: NoiseSchedule, steps: int) -> Float[Tensor, " levels"]:
        if steps != len(self.values) - 1:
            raise ValueError(
                f"this grid was listed for {len(self.values) - 1} steps, the solver has {steps}: use a "
                "solver with as many steps as the grid has"
            )
        ends = ((self.values[0], schedule.most), (self.values[-1], schedule.least))
        if not all(math.isclose(ours, path, rel_tol=1e-6) for ours, path in ends):
            raise ValueError(
                f"this grid was listed for a path from level {self.values[0]:g} to {self.values[-1]:g}, the "
                f"path goes from {schedule.most:g} to {schedule.least:g}; find one for this path by fit_grid"
            )
        return torch.tensor([schedule.most, *self.values[1:-1], schedule.least], dtype=torch.float64)


@torch.no_grad()
def fit_grid(
    denoise: Denoiser,
    y: Float[Tensor, "*rows dim"],
    schedule: NoiseSchedule,
    steps: int,
    *,
    order: int = 1,
    fine: int = 32,
    carried: bool = True,
) -> Listed:
    """The grid with the smallest total cost on these draws, for a given number of steps.

    Args:
        denoise: Denoiser D.
        y: Draws at the path's highest level, where a solver starts. 16 draws are enough.
        schedule: Path from data to noise.
        steps: Number of steps K.
        order: 1 for `Exponential(order=1)`, 2 for `Heun`.
        fine: Number of fine steps n, at least K. D is evaluated at about n^3 / 3 points for each draw.
        carried: Whether the error of a step is measured at the end of the path. Otherwise it is measured
            where the step ends, as in the paper, which needs far fewer evaluations.

    Raises:
        ValueError: If a number is out of range or y has no draws.
    """
    check_whole("steps", steps, 1)
    check_whole("fine", fine, steps)
    if order not in (1, 2):
        raise ValueError(f"fit_grid knows the steps of order 1 (Exponential) and 2 (Heun), got order {order}")
    if y.ndim < 2 or not y.numel():
        raise ValueError(f"y must be (draws, dim) with at least one draw, got shape {tuple(y.shape)}")
    levels = Geometric().levels(schedule, fine)
    path = solve_finely(denoise, y, levels)
    chosen = cheapest(costs(denoise, path, levels, order=order, carried=carried), steps)
    return Listed(levels[chosen].tolist())


def solve_finely(
    denoise: Denoiser, y: Float[Tensor, "*rows dim"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, "levels *rows dim"]:
    """The trajectories of y at each level, solved by two steps of Heun's method between levels."""
    path = [y]
    for before, after in itertools.pairwise(levels.tolist()):
        path.append(_down(denoise, path[-1], before, after, steps=2))
    return torch.stack(path)


def costs(
    denoise: Denoiser,
    path: Float[Tensor, "levels *rows dim"],
    levels: Float[Tensor, " levels"],
    *,
    order: int,
    carried: bool,
) -> Float[Tensor, "levels levels"]:
    """The cost of one step from level i to level j, mean over draws; float64 on the CPU.

    The cost is infinite unless i < j.

    Args:
        denoise: Denoiser D.
        path: Trajectories at each level.
        levels: Levels s_0, ..., s_n of the fine grid.
        order: Order of the step, 1 or 2.
        carried: Whether errors are measured at the end of the path; otherwise at level j.
    """
    values, count = levels.tolist(), len(levels)
    slopes = torch.stack([(y - denoise(y, y.new_tensor(s))) / s for y, s in zip(path, values, strict=True)])
    widths = (
        (levels[None, :] - levels[:, None]).to(path).reshape(count, count, *[1] * (path.ndim - 1))
    )  # This is s_j - s_i.
    found = torch.full((count, count), math.inf, dtype=torch.float64)
    missed = path[:0]  # Ends of the steps of all pairs i < j so far, followed down to the current level.
    for j in range(1, count):
        arrived = path[:j] + widths[:j, j] * slopes[:j]
        if order == 2:
            there = (arrived - denoise(arrived, arrived.new_tensor(values[j]))) / values[j]
            arrived = path[:j] + 0.5 * widths[:j, j] * (slopes[:j] + there)
        if not carried:
            found[:j, j] = _distance(arrived, path[j])
            continue
        missed = torch.cat([missed, arrived])
        if j < count - 1:
            missed = _down(denoise, missed, values[j], values[j + 1], steps=1)
    if carried:
        late, early = torch.tril_indices(count, count, -1)  # The order in which pairs were added.
        found[early, late] = _distance(missed, path[-1])
    return found


def cheapest(cost: Float[Tensor, "levels levels"], steps: int) -> list[int]:
    """The indices of levels from the first to the last that minimise the sum of costs, for a number of steps.

    Args:
        cost: Cost of a step from level i to level j. Only entries with i < j are used.
        steps: Number of steps K.

    Raises:
        ValueError: If there are too few levels for the steps.
    """
    if not 1 <= steps < len(cost):
        raise ValueError(f"{len(cost)} levels allow 1 to {len(cost) - 1} steps, got {steps} steps")
    allowed = torch.ones_like(cost).triu(1) > 0
    cost = torch.where(allowed, cost, math.inf)
    best, before = cost[0], []
    for _ in range(1, steps):
        best, chosen = (best[:, None] + cost).min(dim=0)
        before.append(chosen)
    way = [len(cost) - 1]
    for chosen in reversed(before):
        way.append(int(chosen[way[-1]]))
    return [0, *reversed(way)]


def _down(denoise: Denoiser, y: Tensor, before: float, after: float, *, steps: int) -> Tensor:
    """Follow the probability flow from y at level `before` to level `after`, by Heun's method."""
    unused = torch.Generator()  # Heun without churn draws no noise.
    return Heun(steps, grid=Geometric()).solve(denoise, y, NoiseLevel(after, before), generator=unused)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """The distance |a - b|, mean over all axes but the first and last."""
    return (a - b).norm(dim=-1).flatten(1).mean(1).double().cpu()
