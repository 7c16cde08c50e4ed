"""Parts that all surrogates of fields on a grid share: names, standardisation, symmetries and edges.

**Moves.** If forcing and coefficients do not change along a step on the grid, a solution translated by this step is
again a solution. Training translates each row of a batch by a random multiple of each step, with the start and all
constant fields. So a network that does not know of the symmetry learns it from all places of all rows.

**Edges** are detected from the fields themselves. On a ring or torus the last point of each direction is the neighbour
of the first. So fields have edges where the jump between these two is larger than jumps between neighbours inside,

    rms(f_last - f_first) > 2 rms(f_{i+1} - f_i).

They also have edges where a boundary condition holds their first or last value: the sd of this value over the rows is
below a twentieth of the sd inside. Each channel and each direction is checked. For periodic fields whose statistics are
the same everywhere, both sides of the first inequality have the same expectation. A wrong "edges" costs a few points of
padding; a wrong "no edges" costs accuracy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Batch, Learns, Observable, Prior, Surrogate, X
from sciinf.core.checks import check_whole

JUMP, HELD = 2.0, 0.05
_POINTS = 4  # A direction needs so many points for edges to be detected.
_ROWS, _NUMBERS = 256, 2**23  # Limits of the rows, and of the numbers in them, that are checked.


class ByEdges(ABC):
    """A surrogate whose network depends on whether fields have edges."""

    @abstractmethod
    def at_edges(self) -> None:
        """Rebuild the network for fields that have edges, unless the user chose its settings."""


def show_edges(
    surrogate: ByEdges, batches: Callable[[], Iterator[Batch]], fields: Callable[[Batch], list[Tensor]]
) -> bool:
    """Whether the training rows have edges; if so, the surrogate is adapted to them.

    Args:
        surrogate: The surrogate, whose `at_edges` is called if fields have edges.
        batches: Each call is a pass over the training rows. Only the first rows are checked.
        fields: A function from a batch to its fields, each (rows, channel, *space).
    """
    first = next(iter(batches()))
    numbers = max(value[:1].numel() for value in first.x.values())
    rows = first.rows(slice(0, max(2, min(_ROWS, _NUMBERS // numbers))))
    found = any(edged(value) for value in fields(rows))
    if found:
        surrogate.at_edges()
    return found


def edged(fields: Float[Tensor, "rows channel *space"]) -> bool:
    """Whether any channel of the fields has edges in any direction."""
    return any(
        _edged_along(fields.movedim(axis, -1).double())
        for axis in range(2, fields.ndim)
        if fields.shape[axis] >= _POINTS
    )


def _edged_along(fields: Float[Tensor, "rows channel *across along"]) -> bool:
    others = [0, *range(2, fields.ndim - 1)]
    ends = fields[..., [0, -1]]
    inside = fields.diff(dim=-1).square().mean([*others, -1])
    around = ends.diff(dim=-1)[..., 0].square().mean(others)
    held = ends.var(0).reshape(fields.shape[1], -1, 2).mean(1).amin(-1)
    varied = fields.var(0).flatten(1).mean(1)
    found = (around > JUMP**2 * inside) | (held < HELD**2 * varied)
    return bool((found & (inside > 0)).any())


Moves = tuple[tuple[int, ...], ...]


def checked(moves: Sequence[Sequence[int]], space: tuple[int, ...]) -> Moves:
    """The moves (steps on a grid) as tuples, after a check.

    Raises:
        ValueError: If a step is not one whole number for each direction of space, or all its numbers are 0.
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
    """Rows whose fields are translated on the grid, each row by random steps of its own.

    Args:
        batch: Rows.
        names: Names of their fields, (batch, ..., *space).
        moves: Steps on the grid. Each row is translated by a random multiple of each step.
        generator: Source of these multiples.
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
    """Fields (batch, ..., *space) on a torus, each translated by a number of points along every direction."""
    rows, count = by.shape
    by, space = by.to(field.device), field.shape[-count:]
    index: list[Tensor] = [torch.arange(rows, device=field.device).reshape(-1, *[1] * count)]
    for k, points in enumerate(space):
        along = (torch.arange(points, device=field.device) - by[:, k, None]) % points
        index.append(along.reshape(rows, *[points if j == k else 1 for j in range(count)]))
    flat = field.reshape(rows, -1, *space).movedim(1, -1)
    return flat[tuple(index)].movedim(-1, 1).reshape(field.shape)


class Looking(ABC):
    """A surrogate that needs more of the training rows than means and sds."""

    @abstractmethod
    def look(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Learn from the training rows, once means and sds are known.

        Args:
            batches: Each call is a pass over the rows.
        """


class ByTimes(ABC):
    """A surrogate that accepts frames at certain times only."""

    @abstractmethod
    def check_times(self, times: Sequence[float]) -> None:
        """Refuse times of frames that do not suit this surrogate.

        Raises:
            ValueError: If the times do not suit.
        """


class OfFields(Surrogate, ABC):
    """A surrogate of one observable of layout (time, channel, *space).

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables.
        target: Name of the observable that is predicted.
        given: Names of the observables that the prediction starts from, each (channel, *space). If None, all other
            observables.
        seed: Seed of the initial weights.
        moves: Steps on the grid by which training translates solutions (`moved`).

    Raises:
        ValueError: If a name is unknown, layouts do not go together, the seed is no int of at least 0, or a move is no
            step on the grid.
    """

    learns: Learns = "fields"
    theta_mean: Tensor
    theta_sd: Tensor
    given_mean: Tensor
    given_sd: Tensor
    target_mean: Tensor
    target_sd: Tensor
    step_sd: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        target: str,
        given: Sequence[str] | None,
        seed: int,
        moves: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        check_whole("seed", seed, 0)
        if target not in observables:
            raise ValueError(f"there is no observable {target!r} to predict; there is {', '.join(observables)}")
        others = [name for name in observables if name != target]
        self.prior, self.observables, self.target = prior, dict(observables), target
        self.given = tuple(others if given is None else given)
        spec = self.observables[target]
        if len(spec.shape) < 2:
            raise ValueError(f"{target!r} has shape {spec.shape}; fields are (time, channel, *space)")
        self.frames, self.channels, self.space = spec.shape[0], spec.shape[1], spec.shape[2:]
        for name in self.given:
            self._check_given(name)
        self.moves = checked(moves, self.space)
        self.channels_given = sum(self.observables[name].shape[0] for name in self.given)
        width, axes = len(prior.names), len(self.space) * (1,)
        self.register_buffer("theta_mean", torch.zeros(width, dtype=prior.dtype))
        self.register_buffer("theta_sd", torch.ones(width, dtype=prior.dtype))
        self.register_buffer("given_mean", torch.zeros(self.channels_given, *axes))
        self.register_buffer("given_sd", torch.ones(self.channels_given, *axes))
        self.register_buffer("target_mean", torch.zeros(self.frames, self.channels, *axes))
        self.register_buffer("target_sd", torch.ones(self.frames, self.channels, *axes))
        self.register_buffer("step_sd", torch.ones(self.channels, *axes))

    def _check_given(self, name: str) -> None:
        spec = self.observables.get(name)
        if spec is None:
            raise ValueError(f"there is no observable {name!r} to start from; there is {', '.join(self.observables)}")
        if spec.shape[1:] != self.space:
            raise ValueError(
                f"{name!r} has shape {spec.shape}; {self.target!r} with space {self.space} is predicted from fields "
                "(channel, *space): name what is in `given`"
            )

    @final
    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Take means and sds from the training rows.

        Raises:
            ValueError: If fields have edges and `moves` are given.
        """
        theta, given, target, step = FieldMoments(), FieldMoments(), FieldMoments(), FieldMoments()
        for batch in batches():
            theta.add(batch.theta, (0,))
            if self.given:
                given.add(self.stacked(batch.x), (0, *range(2, 2 + len(self.space))))
            if self.needs is not None and self.target not in batch.x:
                continue  # Such a surrogate learns from rows without a solution.
            target.add(batch.x[self.target], (0, *range(3, 3 + len(self.space))))
            step.add(batch.x[self.target].diff(dim=1), (0, 1, *range(3, 3 + len(self.space))))
        theta.into(self.theta_mean, self.theta_sd)
        if self.given:
            given.into(self.given_mean, self.given_sd)
        if target.count:
            target.into(self.target_mean, self.target_sd)
        if target.count and self.frames > 1:
            step.into(torch.empty_like(self.step_sd), self.step_sd)
        if isinstance(self, ByEdges):
            found = show_edges(
                self, batches, lambda rows: [rows.x[self.target].flatten(0, 1), *(rows.x[n] for n in self.given)]
            )
            if found and self.moves:
                raise ValueError(
                    f"{self.target!r} has edges, and moves are for periodic fields alone: leave out moves="
                )
        if isinstance(self, Looking):
            self.look(batches)

    @final
    def shown(self, batch: Batch, *, generator: torch.Generator) -> Batch:
        """The batch as training sees it: rows translated at random, if `moves` are given."""
        return moved(batch, (*self.given, self.target), self.moves if self.training else (), generator=generator)

    @final
    def stacked(self, given: X) -> Float[Tensor, "batch channel ..."]:
        """The given fields, concatenated along the channel axis.

        Raises:
            ValueError: If a given field is missing.
        """
        if not isinstance(given, Mapping) or not set(self.given) <= set(given):
            found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(f"{self.target!r} is predicted from fields by name, {list(self.given)}: got {found}")
        return torch.cat([given[name] for name in self.given], 1)

    @final
    def z(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch theta"]:
        """Standardised parameters, in the precision of the weights.

        Raises:
            ValueError: If theta does not have one column for each parameter.
        """
        count = len(self.prior.names)
        if theta.ndim < 2 or theta.shape[-1] != count:
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}: (batch, {count}) is needed, a column for each of "
                f"{', '.join(self.prior.names) or 'no parameters'}"
            )
        return ((theta.to(self.theta_mean) - self.theta_mean) / self.theta_sd).to(self.given_mean.dtype)

    @final
    def level(self) -> tuple[Float[Tensor, "channel ..."], Float[Tensor, "channel ..."]]:
        """Mean and sd of frames, over all times."""
        mean = self.target_mean.mean(0)
        squares = self.target_sd.double().square() + (self.target_mean.double() - mean).square()
        return mean, squares.mean(0).sqrt().to(mean).clamp_min(torch.finfo(mean.dtype).tiny)


class FieldMoments:
    """Accumulator of the mean and the sd over axes, batch by batch."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())
        self.start: Tensor | None = None

    def add(self, value: Tensor, axes: tuple[int, ...]) -> None:
        value = value.double()
        if self.start is None:  # Values less this mean are small, so no digits are lost if values are far from zero.
            self.start = value.mean(axes, keepdim=True)
        value = value - self.start
        self.count += math.prod(value.shape[axis] for axis in axes)
        self.total = self.total.to(value) + value.sum(axes)
        self.squares = self.squares.to(value) + value.square().sum(axes)

    def into(self, mean: Tensor, sd: Tensor) -> None:
        middle = self.total / max(self.count, 1)
        spread = (self.squares / max(self.count, 1) - middle.square()).clamp_min(0.0).sqrt().reshape(sd.shape)
        start = 0.0 if self.start is None else self.start.reshape(mean.shape)
        found = middle.reshape(mean.shape) + start
        mean.copy_(found)
        known = spread > torch.finfo(mean.dtype).eps * found.abs()
        sd.copy_(torch.where(known, spread, torch.ones_like(spread)))
