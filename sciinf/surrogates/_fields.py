"""What surrogates of fields on a grid have in common: names, and standardisation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Learns, Observable, Prior, Surrogate, X
from sciinf.core.checks import check_whole
from sciinf.surrogates._edges import ByEdges, show_edges
from sciinf.surrogates._moves import checked, moved


class Looking(ABC):
    """A surrogate that needs more of the training rows than means and sds."""

    @abstractmethod
    def look(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Take it, when means and sds are known; each call of `batches` is a pass over the rows."""


class ByTimes(ABC):
    """A surrogate for frames at some times alone."""

    @abstractmethod
    def check_times(self, times: Sequence[float]) -> None:
        """Refuse times of frames that do not suit.

        Raises:
            ValueError: If they do not.
        """


class OfFields(Surrogate, ABC):
    """A surrogate of one observable of layout (time, channel, *space).

    Args:
        prior: The simulator's.
        observables: The simulator's.
        target: Name of what is predicted.
        given: Names of what it starts from, each (channel, *space); all other observables where left out.
        seed: Seeds the first weights.
        moves: Steps on the grid by which solutions are moved in training (`_moves`).

    Raises:
        ValueError: If a name is unknown, layouts do not go together, the seed is no int of at least 0, or a move is no
            step on the grid.
    """

    learns: ClassVar[Learns] = "fields"
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
                f"{name!r} has shape {spec.shape}; what {self.target!r} of space {self.space} starts from is (channel, "
                "*space): name what is in `given`"
            )

    @final
    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Take means and sds from the training rows.

        Raises:
            ValueError: If fields have edges, and are to be moved.
        """
        theta, given, target, step = Moments(), Moments(), Moments(), Moments()
        for batch in batches():
            theta.add(batch.theta, (0,))
            if self.given:
                given.add(self.stacked(batch.x), (0, *range(2, 2 + len(self.space))))
            if self.needs is not None and self.target not in batch.x:
                continue  # it learns without
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
                    f"{self.target!r} has edges, and moves take what leaves at one in at the other: leave out moves="
                )
        if isinstance(self, Looking):
            self.look(batches)

    @final
    def shown(self, batch: Batch, *, generator: torch.Generator) -> Batch:
        """What training shows: rows moved at random, where solutions may be."""
        return moved(batch, (*self.given, self.target), self.moves if self.training else (), generator=generator)

    @final
    def stacked(self, given: X) -> Float[Tensor, "batch channel ..."]:
        """What it starts from, channel under channel.

        Raises:
            ValueError: If a part of it is not given.
        """
        if not isinstance(given, Mapping) or not set(self.given) <= set(given):
            found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(f"{self.target!r} is predicted from fields by name, {list(self.given)}: got {found}")
        return torch.cat([given[name] for name in self.given], 1)

    @final
    def z(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch theta"]:
        """Standardised parameters, in the precision of the weights.

        Raises:
            ValueError: If there is not a column for each parameter.
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
        """Mean and sd of frames, whenever they are."""
        mean = self.target_mean.mean(0)
        squares = self.target_sd.double().square() + (self.target_mean.double() - mean).square()
        return mean, squares.mean(0).sqrt().to(mean).clamp_min(torch.finfo(mean.dtype).tiny)


class Moments:
    """Mean and sd over axes, batch by batch."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())
        self.start: Tensor | None = None

    def add(self, value: Tensor, axes: tuple[int, ...]) -> None:
        value = value.double()
        if self.start is None:  # close to all of them, so that no digit is lost far from zero
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
