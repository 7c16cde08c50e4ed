r"""Codes from fields to tokens and back.

A field on a grid, (channel, *space), becomes N tokens of w numbers each, with a place in the unit box. These codes are
linear with orthonormal rows, t = Q u, u ~ Q^T t, and need no training of a network:

| code | a token | Q |
|---|---|---|
| `Patches` | a piece of the grid | the identity: tokens are the field itself |
| `Pod` | some of the strongest modes of the training fields, without a place | their leading eigenvectors |
| `Haar` (`haar`) | differences of neighbours, or means, of one scale | wavelets |
| `Points` (`points`) | the values at a station | the identity |

`Patches` lose nothing, and are translated with the field. `Pod` keeps `rank` numbers and loses the rest. Wavelets
within a piece would only rotate its numbers. Distributions are learned of numbers that are rotated and scaled until
they are uncorrelated (`emulators.tokens.innovations`), so this rotation would make no difference.

References:
    | Turbulence and the dynamics of coherent structures (Sirovich, 1987), https://doi.org/10.1090/qam/910462
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_positive, check_whole
from sciinf.core.component import Component

_TOGETHER = 2_048  # Limit of the numbers whose joint covariance is computed.

Level = tuple[Float[Tensor, "channel ..."], Float[Tensor, "channel ..."]]
Passes = Callable[[], Iterator[Float[Tensor, "batch channel *space"]]]


class FieldTokens(nn.Module, ABC):
    """A code for fields of one layout.

    Attributes:
        channels: Number of channels of fields.
        space: Number of points of fields in each direction.
        places: Places of tokens, (token, axis), in the unit box.
        width: Number of components of a token.
        counts: Number of pieces of the grid in each direction, which are tokens of one kind; () if tokens are no
            pieces.
        scales: Scale of each token, 0 the coarsest; () if tokens have none.
        on_grid: Whether fields are on a grid, so that they can be translated along it.
    """

    on_grid: ClassVar[bool] = True
    places: Tensor
    width: int
    counts: tuple[int, ...]
    scales: tuple[int, ...]

    def __init__(
        self,
        channels: int,
        space: Sequence[int],
        places: Tensor,
        width: int,
        counts: tuple[int, ...] = (),
        *,
        scales: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.channels, self.space, self.width, self.counts = channels, tuple(space), width, counts
        self.scales = scales
        self.register_buffer("places", places, persistent=False)

    @abstractmethod
    def encode(self, fields: Float[Tensor, "*batch channel *space"]) -> Float[Tensor, "*batch token width"]:
        """Tokens of fields."""

    @abstractmethod
    def decode(self, tokens: Float[Tensor, "*batch token width"]) -> Float[Tensor, "*batch channel *space"]:
        """Fields from tokens."""

    @abstractmethod
    def look(self, fields: Passes, level: Level | None = None) -> None:
        """Learn from training fields what the code depends on.

        Args:
            fields: Each call is a pass over the fields.
            level: Mean and sd by which they were standardised, for each channel in the simulator's units.
        """


class Code(Component, ABC):
    """Recipe of a code from fields to tokens.

    Attributes:
        learned_of: Name of the observable whose frames alone the code is for; "" if it is for any fields.
    """

    learned_of: str = ""

    @abstractmethod
    def build(self, channels: int, space: Sequence[int]) -> FieldTokens:
        """The code for fields of a layout.

        Raises:
            ValueError: If it does not suit fields of that layout.
        """


def check_together(numbers: int, what: str, instead: str) -> None:
    """Refuse more numbers than the limit for a joint covariance, for tokens of unlike kinds.

    Args:
        numbers: Number of components in all tokens of a field.
        what: Name of the code, for the message.
        instead: Advice for the message.

    Raises:
        ValueError: If there are more than 2,048.
    """
    if numbers > _TOGETHER:
        raise ValueError(
            f"{what} makes {numbers:,} numbers of a field. Such tokens need the covariance of all of them, and that is "
            f"for {_TOGETHER:,} at most. Instead, {instead}"
        )


class Patches(Code):
    """A code whose tokens are pieces of the grid.

    Args:
        size: Points of a piece, in each direction.

    Raises:
        ValueError: If the size is no int of at least 1; when built, if it does not divide the points of a direction.

    Examples:
        >>> code = Patches(4).build(1, (64,))
        >>> code.encode(torch.ones(10, 1, 64)).shape
        torch.Size([10, 16, 4])
    """

    def __init__(self, size: int = 4) -> None:
        check_whole("size", size, 1)
        self.size = size

    def build(self, channels: int, space: Sequence[int]) -> FieldTokens:
        return _Pieces(channels, space, self.size)


class Pod(Code):
    """A code by the strongest modes of the training fields (proper orthogonal decomposition, principal components).

    Args:
        rank: Number of modes.
        width: Number of modes in a token.

    Raises:
        ValueError: If either is no int of at least 1, or the width does not divide the rank; when built, if fields have
            fewer numbers than the rank.
    """

    def __init__(self, rank: int = 64, *, width: int = 8) -> None:
        check_positive(rank=rank, width=width)
        if rank % width:
            raise ValueError(f"{rank} modes are no whole number of tokens of {width}")
        self.rank, self.width = rank, width

    def build(self, channels: int, space: Sequence[int]) -> FieldTokens:
        numbers = channels * math.prod(space)
        if self.rank > numbers:
            raise ValueError(f"fields of {channels} x {tuple(space)} have {numbers} numbers, and no {self.rank} modes")
        return _Modes(channels, space, self.rank, self.width)


@final
class _Pieces(FieldTokens):
    """The code that `Patches` builds; a field without space is one piece."""

    def __init__(self, channels: int, space: Sequence[int], size: int) -> None:
        if any(n % size for n in space):
            raise ValueError(
                f"pieces of {size} points do not divide a grid of {tuple(space)} points: Patches(size=...)"
            )
        counts = tuple(n // size for n in space) or (1,)
        axes = [(torch.arange(n) + 0.5) / n for n in counts]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(counts))
        super().__init__(channels, space, places, channels * size ** len(space), counts)
        self.size = size

    def look(self, fields: Passes, level: Level | None = None) -> None:
        del fields, level  # Pieces need no training.

    def encode(self, fields: Float[Tensor, "*batch channel *space"]) -> Float[Tensor, "*batch token width"]:
        lead, axes = fields.shape[: fields.ndim - 1 - len(self.space)], len(self.space)
        cut = fields.reshape(
            -1, self.channels, *itertools.chain.from_iterable((n // self.size, self.size) for n in self.space)
        )
        order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))
        return cut.permute(order).reshape(*lead, len(self.places), self.width)

    def decode(self, tokens: Float[Tensor, "*batch token width"]) -> Float[Tensor, "*batch channel *space"]:
        lead, axes = tokens.shape[:-2], len(self.space)
        cut = tokens.reshape(-1, *(n // self.size for n in self.space), self.channels, *[self.size] * axes)
        order = (0, 1 + axes, *itertools.chain.from_iterable((1 + k, 2 + axes + k) for k in range(axes)))
        return cut.permute(order).reshape(*lead, self.channels, *self.space)


@final
class _Modes(FieldTokens):
    """The code that `Pod` builds: leading modes of the training fields about their mean."""

    modes: Tensor
    mean: Tensor

    def __init__(self, channels: int, space: Sequence[int], rank: int, width: int) -> None:
        count = rank // width
        places = (torch.arange(count)[:, None] + 0.5) / count
        super().__init__(channels, space, places, width, scales=tuple(range(count)))
        numbers = channels * math.prod(space)
        self.register_buffer("modes", torch.eye(numbers)[:rank])
        self.register_buffer("mean", torch.zeros(numbers))

    def look(self, fields: Passes, level: Level | None = None) -> None:
        del level  # Modes do not depend on units.
        numbers = self.modes.shape[1]
        count, total = 0, torch.zeros(numbers, dtype=torch.float64)
        squares = torch.zeros(numbers, numbers, dtype=torch.float64)
        for batch in fields():
            flat = batch.reshape(-1, numbers).double().cpu()
            count, total, squares = count + len(flat), total + flat.sum(0), squares + flat.mT @ flat
        mean = total / count
        found = torch.linalg.eigh(squares / count - mean[:, None] * mean).eigenvectors
        self.mean.copy_(mean)
        self.modes.copy_(found.mT.flip(0)[: len(self.modes)])

    def encode(self, fields: Float[Tensor, "*batch channel *space"]) -> Float[Tensor, "*batch token width"]:
        flat = fields.flatten(-1 - len(self.space)) - self.mean.to(fields)
        return (flat @ self.modes.to(fields).mT).unflatten(-1, (-1, self.width))

    def decode(self, tokens: Float[Tensor, "*batch token width"]) -> Float[Tensor, "*batch channel *space"]:
        flat = tokens.flatten(-2) @ self.modes.to(tokens) + self.mean.to(tokens)
        return flat.unflatten(-1, (self.channels, *self.space))
