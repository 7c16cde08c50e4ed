"""The base class of posteriors, with the method names that users of sbi know."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciinf.core.doubts import doubt
from sciinf.core.draws import Draws
from sciinf.core.observable import Observable, X
from sciinf.core.observation import as_observation
from sciinf.core.prior import Prior
from sciinf.core.quantities import theta_in


class Posterior(ABC):
    """The posterior p(theta | x) for any observation x, from what was learned from simulations.

    A subclass sets the first five attributes and defines the abstract methods.

    Attributes:
        name: The name of the posterior.
        digest: The digest of what was learned.
        prior: The prior of theta.
        observables: The simulator's observables, by name.
        trained_on: Digests of the stores used for training, and `campaign_of` their simulator and seed.
        scope: For a posterior that does not hold for every observation: where it holds, in words.
        observation: For a posterior of a single observation: that observation, name -> (1, *event).
        under: For a posterior learned from simulations of a proposal: what `Store.proposal` says of them.
        look: A function that returns the words of a warning about an observation, "" for no warning. `sample`
            calls it.
    """

    name: str
    digest: str
    prior: Prior
    observables: Mapping[str, Observable]
    trained_on: frozenset[str]
    scope: str = ""
    observation: X | None = None
    under: Mapping[str, Any] | None = None
    look: Callable[[X], str] | None = None

    def __repr__(self) -> str:
        scope = f"; {self.scope}" if self.scope else ""
        return f"{self.name} posterior of ({', '.join(self.prior.names)}){scope}"

    @abstractmethod
    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """At least n draws for one observation x, name -> (1, *event); weighted if the method weights."""

    @abstractmethod
    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        """n unweighted draws, (n, batch, D), for each of a batch of observations, name -> (batch, *event)."""

    @abstractmethod
    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        """The log density, (n, batch), of theta, (n, batch, D), given each of a batch of observations x."""

    @abstractmethod
    def features(self, x: X) -> Tensor:
        """The learned summary, (batch, F), of each of a batch of observations, for checks of observations."""

    def sample(
        self, n: int | tuple[int, ...] = 1, x: Any = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Unweighted draws from the posterior given one observation.

        Args:
            n: The number of draws, or a shape.
            x: One observation: a mapping of named arrays, or a bare array if there is one observable. By
                default the observation of a posterior that has a single one.
            generator: The source of randomness. By default a new one with fresh entropy.

        Returns:
            The draws, (*n, D).

        Raises:
            ValueError: If x has another shape than the simulator's observables, or is not finite; if n is
                below 1.

        Warns:
            UserWarning: If x is unlike the fresh simulations of the run from which the posterior comes.
        """
        shape, count = _shape(n)
        generator = generator if generator is not None else fresh_generator()
        one = self._one(x)
        if self.look is not None and (words := self.look(one)):
            doubt(words, alarm=True, stacklevel=2)
        draws = self.draw(one, count, generator=generator)
        return draws.resample(count, generator=generator).reshape(*shape, len(self.prior))

    def log_prob(self, theta: Tensor, x: Any = None) -> Tensor:
        """The log density of theta, (*batch,), given one observation.

        Args:
            theta: Parameters, (*batch, D), in the prior's units, or a quantity of astropy, which is
                converted.
            x: One observation, as for `sample`.
        """
        theta = theta_in(theta, self.prior.names, self.prior.units)
        flat = theta.reshape(-1, 1, theta.shape[-1])
        return self.log_prob_batched(flat, self._one(x)).reshape(theta.shape[:-1])

    def sample_batched(self, n: int | tuple[int, ...], x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """Unweighted draws, (*n, batch, D), for a batch of observations x, name -> (batch, *event)."""
        shape, count = _shape(n)
        generator = generator if generator is not None else fresh_generator()
        values = as_observation(self.observables, x, batched=True)
        draws = self.draw_batched(values, count, generator=generator)
        return draws.reshape(*shape, *draws.shape[1:])

    def _one(self, x: Any) -> X:
        """The observation to use, name -> (1, *event): x, or by default the posterior's own."""
        return self.observation if x is None and self.observation else as_observation(self.observables, x)


def _shape(n: int | Sequence[int]) -> tuple[tuple[int, ...], int]:
    shape = tuple(operator.index(k) for k in n) if isinstance(n, Sequence) else (operator.index(n),)
    if min(shape, default=1) < 1:
        raise ValueError(f"ask for at least one draw; got n={n}, expected 1 or more in each dimension")
    return shape, math.prod(shape)


def fresh_generator() -> torch.Generator:
    """A new CPU generator with fresh entropy; torch's global generator does not change."""
    generator = torch.Generator()
    generator.seed()
    return generator
