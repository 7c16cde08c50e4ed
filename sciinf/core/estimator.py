"""Estimators, and the densities, or likelihoods up to a constant, that they give for observations."""

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
    """An error: the method has no tractable log density. The message says what to use instead."""


class Density(ABC):
    """The conditional density of theta given each of a batch of observations, which are embedded once.

    `batch` below is the number of observations.
    """

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """n draws for each observation, strictly inside the prior's support."""

    def sample_within(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """n draws for each observation, without draws in regions where the method is unreliable.

        By default no draws are left out.
        """
        return self.sample(n, generator=generator)

    @abstractmethod
    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """The normalised log density in the parameters' units; -inf outside the prior's support.

        Raises:
            DensityUnavailable: If the method has no tractable log density.
        """


class PushedDensity(Density, ABC):
    """A density whose draws are noise that a network transforms, each draw independently of the others.

    Draws for many observations can therefore be made at once, with a different n and source of noise for each
    observation. Except for rounding, each draw is the same as if it were made alone. `sample_within(n)` is
    `within(n, push(noise), noise)` with `noise = self.noise(n)`.
    """

    @abstractmethod
    def noise(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "more batch theta"]:
        """The noise from which `sample_within` makes n draws for each observation; `more` is at least n."""

    @abstractmethod
    def push(self, noise: Float[Tensor, "n batch theta"]) -> Float[Tensor, "n batch theta"]:
        """The draws that the network makes of noise, one for each."""

    @abstractmethod
    def within(
        self, n: int, theta: Float[Tensor, "more batch theta"], noise: Float[Tensor, "more batch theta"]
    ) -> Float[Tensor, "n batch theta"]:
        """The n draws for each observation that `sample_within` returns.

        Args:
            n: The number of draws for each observation.
            theta: All draws.
            noise: The noise from which the draws were made.
        """

    @abstractmethod
    def each(self) -> list[PushedDensity]:
        """A density for each of the observations, in a list."""

    @abstractmethod
    def joined(self, others: Sequence[PushedDensity]) -> PushedDensity:
        """The density for these observations, followed by those of other densities of the same estimator."""


class PairedDensity(Density, ABC):
    """A density that is a mean over an auxiliary variable, with a number r for each pair of draws.

    Importance weights use r in place of the density of theta. For any f, the expectation of f(theta) / r over
    the draws of `sample_to_weigh` is the integral of f. For theta drawn from another distribution,
    `log_prob_to_weigh` returns an r with the distribution that r has in `sample_to_weigh`, given that theta.
    Some theta may lie outside the prior's support.
    """

    @abstractmethod
    def sample_to_weigh(self, n: int, *, generator: torch.Generator) -> tuple[Thetas, Logs]:
        """n draws of theta for each observation, and log r of each draw."""

    @abstractmethod
    def log_prob_to_weigh(self, theta: Thetas, *, generator: torch.Generator) -> Logs:
        """The log r of theta drawn from another distribution."""


class Marginals(ABC):
    """Exact probabilities of discrete parameters (`Prior.discrete`), which some densities can give."""

    @abstractmethod
    def log_probabilities(self, name: str) -> Float[Tensor, "batch value"]:
        """The exact log probability of each value of a discrete parameter, for each observation.

        The values have the order of `values` in the parameter's distribution. For a parameter that exists
        only sometimes, the probability is that it exists and has the value. The probabilities then sum to the
        probability that the parameter exists.

        Raises:
            ValueError: If there is no discrete parameter of that name.
        """

    @abstractmethod
    def with_floor(self, share: float) -> Density:
        """The density with a lower limit to the probability of each discrete value.

        Each value, given the values of the discrete parameters before it, has at least `share` of its prior
        probability. Importance weights need such a density: they cannot recover a value that is never drawn.

        Raises:
            ValueError: If the share is not between 0 and 1.
        """


class Potential(ABC):
    """The likelihood of theta, up to a constant, for a batch of observations, which are embedded once.

    A potential has no draws and no normalised density of theta. `posteriors.mcmc` samples the posterior from
    the potential and the prior. `batch` below is the number of observations.
    """

    @abstractmethod
    def log_likelihood(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """The log likelihood log p(x | theta) + c(x), which torch can differentiate with respect to theta.

        The constant c(x) is the same for every theta.

        Args:
            theta: Parameters strictly inside the prior's support, one row for each observation.
        """


class Estimator(Learned, ABC):
    """The base class of networks that learn a density or likelihood of theta, each from one paper.

    Attributes:
        normalised: Whether `condition` returns a `Density` of theta. If not, `condition` returns a
            `Potential`, which MCMC samples.
        mixed: Whether the estimator supports priors with discrete parameters (`Prior.mixed`).
    """

    normalised: ClassVar[bool] = True
    mixed: ClassVar[bool] = False

    @abstractmethod
    def condition(self, x: X) -> Density | Potential:
        """The density or likelihood of theta given observations x, name -> (batch, *event).

        The observations are embedded here, once.
        """

    def density(self, x: X) -> Density:
        """The result of `condition` if it is a density.

        Raises:
            DensityUnavailable: If `condition` returns a `Potential`.
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
        """The learned summary of x, which the check of an observation uses."""
