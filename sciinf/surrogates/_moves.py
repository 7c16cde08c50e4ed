"""Solutions that are moved on their grid in training, where an equation is the same everywhere along a direction.

Where forcing and coefficients do not change along a step on the grid, a solution moved by it is a solution too. Each
row of a batch is moved by a random multiple of each step, start and fields that stay with it, so that a network which
does not know of the symmetry learns it from all places of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from sciinf.core import Batch

Moves = tuple[tuple[int, ...], ...]


def checked(moves: Sequence[Sequence[int]], space: tuple[int, ...]) -> Moves:
    """Steps on a grid.

    Raises:
        ValueError: If a step is not one whole number for each direction of space, or goes nowhere.
    """
    found = tuple(tuple(step) for step in moves)
    for step in found:
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in step)
        if len(step) != len(space) or not whole or not any(step):
            raise ValueError(
                f"moves are steps on the grid, a whole number of points for each of {len(space)} directions, not all "
                f"of them 0, got {step}"
            )
    return found


def moved(batch: Batch, names: Sequence[str], moves: Moves, *, generator: torch.Generator) -> Batch:
    """Rows whose fields are moved, each by steps of its own.

    Args:
        batch: Rows.
        names: Of their fields, (batch, ..., *space).
        moves: Steps, of which each row takes some.
        generator: Of how many.
    """
    if not moves:
        return batch
    space = batch.x[names[0]].shape[-len(moves[0]) :]
    rows = len(batch)
    by = torch.zeros(rows, len(space), dtype=torch.int64, device=generator.device)
    for step in moves:
        times = torch.randint(math.lcm(*space), (rows, 1), generator=generator, device=generator.device)
        by = by + times * torch.tensor(step, device=times.device)
    return Batch(batch.theta, {**batch.x, **{name: rolled(batch.x[name], by) for name in names}})


def rolled(field: Tensor, by: Int[Tensor, "batch direction"]) -> Tensor:
    """Fields (batch, ..., *space) on a torus, each moved by a number of points along every direction."""
    rows, count = by.shape
    by, space = by.to(field.device), field.shape[-count:]
    index: list[Tensor] = [torch.arange(rows, device=field.device).reshape(-1, *[1] * count)]
    for k, points in enumerate(space):
        along = (torch.arange(points, device=field.device) - by[:, k, None]) % points
        index.append(along.reshape(rows, *[points if j == k else 1 for j in range(count)]))
    flat = field.reshape(rows, -1, *space).movedim(1, -1)
    return flat[tuple(index)].movedim(-1, 1).reshape(field.shape)
