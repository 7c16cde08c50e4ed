r"""A time grid for few steps, found on the trajectories of a few draws.

Trajectories of the probability flow have one shape, whatever they end at: nearly straight while noise is high, one bend
in a plane, and straight again. So where steps are best spent can be found on a few of them and holds for all. On a fine
grid s_0 > ... > s_n with trajectories y_0, ..., y_n that are solved accurately, one step of the solver from y_i to
level s_j misses y_j by some error, and the grid of K steps

    0 = i_0 < i_1 < ... < i_K = n    that minimises    sum_k cost(i_{k-1}, i_k)

is found exactly by dynamic programming, best_k(j) = min_i best_{k-1}(i) + cost(i, j).

The paper's cost is the error where it is made, at s_j. But the flow stretches some errors and forgets others on the way
to the data. So here the point that was missed is followed along the fine grid down to s_n, and the cost is how far from
y_n it ends (`carried`), mean over draws: on mixtures with narrow modes draws are off by half as much.

The step is that of the solver which is to use the grid: y + (s_j - s_i) (y - D) / s_i for `Exponential(order=1)`,
Heun's for `Heun`. A step that rests on values of steps before it (`Exponential` of order 2 and 3) costs what no pair
(i, j) tells: these keep `Geometric`.

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
    """Levels one by one.

    Args:
        values: Falling, from the highest level of the path they are for to its lowest.

    Raises:
        ValueError: Unless there are at least two, falling, above 0 and finite; when solving, if the number of steps or
            the path is another.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = [float(value) for value in values]
        falling = all(before > after > 0 for before, after in itertools.pairwise(self.values))
        if len(self.values) < 2 or not falling or not self.values[0] < math.inf:
            raise ValueError(f"Listed needs two or more finite levels that fall and stay above 0, got {self.values}")

    def levels(self, schedule: NoiseSchedule, steps: int) -> Float[Tensor, " levels"]:
        if steps != len(self.values) - 1:
            raise ValueError(f"this grid was listed for {len(self.values) - 1} steps, the solver has {steps}")
        ends = ((self.values[0], schedule.most), (self.values[-1], schedule.least))
        if not all(math.isclose(ours, path, rel_tol=1e-6) for ours, path in ends):
            raise ValueError(
                f"this grid was listed for a path from level {self.values[0]:g} to {self.values[-1]:g}, the path goes "
                f"from {schedule.most:g} to {schedule.least:g}; find one for this path by fit_grid"
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
    """The grid of so many steps with the least total cost on these draws.

    Args:
        denoise: D.
        y: Draws at the path's highest level, as a solver starts from; 16 are enough.
        schedule: The path.
        steps: K.
        order: 1 for `Exponential(order=1)`, 2 for `Heun`.
        fine: n; D is asked for about n^3 / 3 points a draw.
        carried: Whether an error counts by what is left of it at the end; else where it is made, as in the paper, which
            takes far fewer evaluations.

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
    """The trajectories of y at each level, by two steps of Heun's method from one to the next."""
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
    """What one step from level i to level j costs, mean over draws; infinite unless i < j; float64 on the CPU.

    Args:
        denoise: D.
        path: Trajectories.
        levels: s_0, ..., s_n.
        order: Of the step, 1 or 2.
        carried: Whether errors are followed to the end.
    """
    values, count = levels.tolist(), len(levels)
    slopes = torch.stack([(y - denoise(y, y.new_tensor(s))) / s for y, s in zip(path, values, strict=True)])
    widths = (levels[None, :] - levels[:, None]).to(path).reshape(count, count, *[1] * (path.ndim - 1))  # s_j - s_i
    found = torch.full((count, count), math.inf, dtype=torch.float64)
    missed = path[:0]  # where steps arrived, or what has become of it: one for each pair i < j so far
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
        late, early = torch.tril_indices(count, count, -1)  # by j, then by i, as they came
        found[early, late] = _distance(missed, path[-1])
    return found


def cheapest(cost: Float[Tensor, "levels levels"], steps: int) -> list[int]:
    """The way from the first level to the last in so many steps with the least sum of costs.

    Args:
        cost: Of a step from i to j; only i < j counts.
        steps: K.

    Raises:
        ValueError: If there are fewer levels than steps need.
    """
    if not 1 <= steps < len(cost):
        raise ValueError(f"{len(cost)} levels allow 1 to {len(cost) - 1} steps, asked for {steps}")
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
    """y at one level to y at the next, by Heun's method."""
    unused = torch.Generator()  # without churn nothing is drawn
    return Heun(steps, grid=Geometric()).solve(denoise, y, NoiseLevel(after, before), generator=unused)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|, mean over all rows of each."""
    return (a - b).norm(dim=-1).flatten(1).mean(1).double().cpu()
