"""Base class of posteriors that were learned by rounds of simulations around one observation."""

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
    """Effect of a likelihood on an answer, in the region where the likelihood was not learned.

    Args:
        times: Factor by which the sds of z would be larger if the likelihood did not count there, (D,).
        believed: Whether the likelihood is believed there, if all else supports the answer.
    """

    times: Float[Tensor, " theta"]
    believed: bool = False


class AroundOne(LearnedPosterior, ABC):
    """A posterior learned around one observation, as `refine_around` and `infer_set` return it.

    A subclass sets `asked`, the observation, name -> (1, *event), and `error`, the answer's chance error there. The
    error is estimated from how far the last round moved the answer: middles in sds, and logarithms of widths. It is
    infinite if it is not known.
    """

    asked: dict[str, Tensor]
    error: tuple[float, float]
    check_draws: int = 32
    """Weighted draws for each data set that the local check asks about."""

    elsewhere: str
    """The warning for an observation that is far from the one it was learned around, with the way out."""

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """Draws for one observation, as from every posterior.

        Warns:
            UserWarning: If the observation is not near the one that the posterior was learned around.
        """
        if not (self.is_around(x) or self.reaches(x)):
            doubt(self.elsewhere, alarm=True, stacklevel=3)
        return super().draw(x, n, generator=generator)

    @abstractmethod
    def reaches(self, x: X) -> bool:
        """Whether the answer to an observation, name -> (1, *event), lies where the last round simulated."""

    def is_around(self, x: X) -> bool:
        """Whether the posterior was learned around this very observation, name -> (1, *event)."""
        return all(torch.equal(value, x[name]) for name, value in self.asked.items())

    @abstractmethod
    def weighted_batched(
        self, x: X, n: int, also: Float[Tensor, "batch theta"], *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n+1 batch theta"], Float[Tensor, "n+1 batch"]]:
        """A given parameter for each data set, and n draws, all with the logarithms of their weights.

        Weights are the posterior's density over that of the draws, up to a constant for each data set.
        """

    @abstractmethod
    def lowered(self, x: X) -> Lowered:
        """Effect of a likelihood on the answer to one observation, where the likelihood was not learned."""
