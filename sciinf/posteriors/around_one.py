"""A posterior that rounds of simulations around one observation taught, as the local check sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Draws, X
from sciinf.core.doubts import doubt
from sciinf.posteriors.learned import LearnedPosterior


class Lowered(NamedTuple):
    """What a likelihood does to an answer where it was not learned.

    Args:
        times: By how many times the sds of z would be larger if it did not count there, (D,).
        believed: Whether it is believed there, if all else speaks for the answer.
    """

    times: Float[Tensor, " theta"]
    believed: bool = False


class AroundOne(LearnedPosterior, ABC):
    """What `refine_around` and `infer_set` return.

    A subclass sets `asked`, the observation, name -> (1, *event), and `error`, the answer's chance error there, told by
    how far the last round moved it: middles in sds, and the logarithms of widths; infinite where it is not known.
    """

    asked: dict[str, Tensor]
    error: tuple[float, float]
    check_draws: int = 32
    """Weighted draws for each data set that the local check asks about."""

    elsewhere: str
    """The warning for an observation that is far from the one it was learned around, with the way out."""

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """As every posterior's.

        Warns:
            UserWarning: If the observation is not near the one it was learned around.
        """
        if not (self.is_around(x) or self.reaches(x)):
            doubt(self.elsewhere, alarm=True, stacklevel=3)
        return super().draw(x, n, generator=generator)

    @abstractmethod
    def reaches(self, x: X) -> bool:
        """Whether its answer to an observation, name -> (1, *event), lies where the last round simulated."""

    def is_around(self, x: X) -> bool:
        """Whether it was learned around this very observation, name -> (1, *event)."""
        return all(torch.equal(value, x[name]) for name, value in self.asked.items())

    @abstractmethod
    def weighted_batched(
        self, x: X, n: int, also: Float[Tensor, "batch theta"], *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n+1 batch theta"], Float[Tensor, "n+1 batch"]]:
        """A parameter for each of some data, and n draws, all with the logarithms of their weights.

        Weights are the posterior's density over that of the draws, up to a constant for each of the data.
        """

    @abstractmethod
    def lowered(self, x: X) -> Lowered:
        """What a likelihood does to the answer to one observation where it was not learned."""
