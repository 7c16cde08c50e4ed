"""The contract of a posterior; it reads as users of sbi know it."""

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
    """p(theta | x) for any x, from something that was learned.

    A subclass sets `name`, `digest` (of what was learned), `prior`, `observables` and `trained_on` (digests of the
    stores behind it, and `campaign_of` their simulator and seed), and defines the abstract methods. One that does not
    hold for every observation says so in `scope`; one for a single observation keeps it, name -> (1, *event), in
    `observation`; one that was learned from simulations of a proposal has in `under` what `Store.proposal` says of
    them. `look` gives the words of a warning about an observation, "" where there is none: `sample` asks it.
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
        """At least n draws for one observation x, name -> (1, *event), weighted where the method weights."""

    @abstractmethod
    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        """n unweighted draws for each of a batch of observations, name -> (batch, *event): (n, batch, D)."""

    @abstractmethod
    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        """Log density of theta (n, batch, D) given each of a batch of observations: (n, batch)."""

    @abstractmethod
    def features(self, x: X) -> Tensor:
        """The learned summary of each of a batch of observations, (batch, F), for the check of an observation."""

    def sample(
        self, n: int | tuple[int, ...] = 1, x: Any = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Unweighted draws for one observation.

        Args:
            n: How many, or a shape.
            x: One observation: a mapping of named arrays, or a bare array where there is one observable. It may be
                left out where the posterior is for a single one.
            generator: Source of randomness; fresh entropy when left out.

        Returns:
            (*n, D).

        Raises:
            ValueError: If x has another shape than the simulator's observables, or is not finite; if n is below 1.

        Warns:
            UserWarning: If x is unlike the fresh simulations of the run that the posterior is of.
        """
        shape, count = _shape(n)
        generator = generator if generator is not None else fresh_generator()
        one = self._one(x)
        if self.look is not None and (words := self.look(one)):
            doubt(words, alarm=True, stacklevel=2)
        draws = self.draw(one, count, generator=generator)
        return draws.resample(count, generator=generator).reshape(*shape, len(self.prior))

    def log_prob(self, theta: Tensor, x: Any = None) -> Tensor:
        """Log density of theta (*batch, D) given one observation, as for `sample`: (*batch,).

        theta is in the prior's units, or a quantity of astropy, which is converted.
        """
        theta = theta_in(theta, self.prior.names, self.prior.units)
        flat = theta.reshape(-1, 1, theta.shape[-1])
        return self.log_prob_batched(flat, self._one(x)).reshape(theta.shape[:-1])

    def sample_batched(self, n: int | tuple[int, ...], x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """Unweighted draws for a batch of observations, name -> (batch, *event): (*n, batch, D)."""
        shape, count = _shape(n)
        generator = generator if generator is not None else fresh_generator()
        values = as_observation(self.observables, x, batched=True)
        draws = self.draw_batched(values, count, generator=generator)
        return draws.reshape(*shape, *draws.shape[1:])

    def _one(self, x: Any) -> X:
        """One observation, name -> (1, *event)."""
        return self.observation if x is None and self.observation else as_observation(self.observables, x)


def _shape(n: int | Sequence[int]) -> tuple[tuple[int, ...], int]:
    shape = tuple(operator.index(k) for k in n) if isinstance(n, Sequence) else (operator.index(n),)
    if min(shape, default=1) < 1:
        raise ValueError(f"ask for at least one draw; got n={n}")
    return shape, math.prod(shape)


def fresh_generator() -> torch.Generator:
    """A CPU generator with fresh entropy, leaving the global one alone."""
    generator = torch.Generator()
    generator.seed()
    return generator
