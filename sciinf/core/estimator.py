"""Estimators and what they are asked for: batches in, densities out, or likelihoods up to a constant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.learned import Learned
from sciinf.core.observable import X

Thetas = Float[Tensor, "n batch theta"]
Logs = Float[Tensor, "n batch"]


class DensityUnavailable(RuntimeError):
    """The method has no tractable log density; the message says what to use instead."""


class Density(ABC):
    """A conditional density of theta, for a batch of observations embedded once.

    `batch` below is the number of observations the density was conditioned on.
    """

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """n draws for each observation, strictly inside the prior's support."""

    def sample_within(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """n draws for each, without those that a method may put anywhere; all, unless a method says otherwise."""
        return self.sample(n, generator=generator)

    @abstractmethod
    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """Normalised log density in the parameters' own units; -inf outside the prior's support.

        Raises:
            DensityUnavailable: If the method has none.
        """


class PushedDensity(Density, ABC):
    """A density whose draws are noise that a network moves, each by itself.

    So draws for many observations may be made at once, of other numbers for each and with noise from other sources, and
    each is what it is alone, but for rounding. `sample_within(n)` is `within(n, push(noise), noise)` of `noise(n)`.
    """

    @abstractmethod
    def noise(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "more batch theta"]:
        """What `sample_within` of n draws for each observation is made from; it may take more than n."""

    @abstractmethod
    def push(self, noise: Float[Tensor, "n batch theta"]) -> Float[Tensor, "n batch theta"]:
        """Noise to draws."""

    @abstractmethod
    def within(
        self, n: int, theta: Float[Tensor, "more batch theta"], noise: Float[Tensor, "more batch theta"]
    ) -> Float[Tensor, "n batch theta"]:
        """Of all draws, with the noise that they come from, those that `sample_within` gives."""

    @abstractmethod
    def each(self) -> list[PushedDensity]:
        """One for each of the observations."""

    @abstractmethod
    def joined(self, others: Sequence[PushedDensity]) -> PushedDensity:
        """One for its own observations and then those of others, of the same estimator."""


class PairedDensity(Density, ABC):
    """A density that is a mean over something drawn with theta, which weights of draws are better told by.

    For any f, the mean of f(theta) / r over `sample_to_weigh` is the integral of f, and the mean of g(r) over draws of
    another law is what it is over theta of that law and the r that `sample_to_weigh` gives such theta. Some theta may
    lie outside the prior's support.
    """

    @abstractmethod
    def sample_to_weigh(self, n: int, *, generator: torch.Generator) -> tuple[Thetas, Logs]:
        """Draws, and log r of each."""

    @abstractmethod
    def log_prob_to_weigh(self, theta: Thetas, *, generator: torch.Generator) -> Logs:
        """log r of theta drawn elsewhere."""


class Marginals(ABC):
    """What a `Density` may offer of discrete parameters (`Prior.discrete`): probabilities without draws."""

    @abstractmethod
    def log_probabilities(self, name: str) -> Float[Tensor, "batch value"]:
        """log P of each value of a discrete parameter, in the order of its law's `values`, for each observation.

        Exact. Of a parameter that exists only sometimes, the probability that it exists and has the value; together
        they are then that of its existing.

        Raises:
            ValueError: If there is no discrete parameter of that name.
        """

    @abstractmethod
    def with_floor(self, share: float) -> Density:
        """A density that gives each discrete value, given those before it, at least `share` of its prior probability.

        What draws are weighted by: weights cannot bring back what was never drawn.

        Raises:
            ValueError: If the share is not from 0 to 1.
        """


class Potential(ABC):
    """A conditional likelihood of theta, for a batch of observations embedded once.

    It has no draws and no normalised density of theta: `posteriors.mcmc` samples the posterior that it gives with the
    prior. `batch` below is the number of observations it was conditioned on.
    """

    @abstractmethod
    def log_likelihood(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """log p(x | theta) + c(x), with c the same for every theta; torch differentiates it by theta.

        Args:
            theta: Strictly inside the prior's support, one row for each observation.
        """


class Estimator(Learned, ABC):
    """What is learned of theta, one paper, one file.

    `normalised` tells what `condition` gives: a `Density` of theta where it is True, a `Potential`, from which MCMC
    draws, where it is False. `mixed` tells whether it learns of priors with discrete parameters (`Prior.mixed`).
    """

    normalised: ClassVar[bool] = True
    mixed: ClassVar[bool] = False

    @abstractmethod
    def condition(self, x: X) -> Density | Potential:
        """What was learned of theta given observations x, name -> (batch, *event); x is embedded here, once."""

    def density(self, x: X) -> Density:
        """`condition`, for whoever needs draws and densities.

        Raises:
            DensityUnavailable: If it gives a `Potential`.
        """
        found = self.condition(x)
        if isinstance(found, Potential):
            raise DensityUnavailable(
                f"{type(self).__name__} learns a likelihood, which has no draws and no normalised density of theta; "
                "sample its posterior with build_posterior(fit), or train a Flow"
            )
        return found

    @abstractmethod
    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """The learned summary of x, which the check of an observation looks at."""
