"""What a sampler takes and gives: a log density of many targets at once, and chains for each of them.

All samplers of this shelf advance every chain of every target with one call of the log density, which is where the
time goes; the targets are usually the posteriors of as many observations. What a sampler adapts (step sizes, widths,
covariances) it adapts in its warm-up, for each target from all of the target's chains, and then leaves alone, so that
the draws kept come from a Markov chain whose stationary law is the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component
from sciinf.samplers.convergence import effective_sample_size, r_hat

LogDensity = Callable[[Tensor], Tensor]
"""Log density up to a constant, (chains, batch, D) -> (chains, batch), for each of `batch` targets and however many
chains: the value at [c, b] depends on the position at [c, b] alone. -inf where the density is zero."""


@dataclass(frozen=True)
class Chains:
    """Draws after warm-up.

    Args:
        draws: Positions in order, (n, chains, batch, D).
        acceptance: Mean probability that a proposal was accepted, after warm-up, (batch,).
        evaluations: Positions at which the log density or its gradient was asked for, of all chains and targets, those
            of warm-up and of rows that had to wait for others included.
    """

    draws: Float[Tensor, "n chains batch dim"]
    acceptance: Float[Tensor, " batch"]
    evaluations: int

    def r_hat(self) -> Float[Tensor, "batch dim"]:
        """Rank-normalised split R-hat: above 1.01, the chains have not mixed; NaN if nothing ever moved.

        Raises:
            ValueError: If there are fewer than four draws per chain.
        """
        return r_hat(self.draws)

    def ess(self) -> Float[Tensor, "batch dim"]:
        """Bulk effective sample size of all of a target's chains; NaN if nothing ever moved.

        Raises:
            ValueError: If there are fewer than four draws per chain.
        """
        return effective_sample_size(self.draws)

    def flat(self) -> Float[Tensor, "draws batch dim"]:
        """All chains' draws in one row, (n * chains, batch, D)."""
        return self.draws.flatten(0, 1)


class Sampler(Component, ABC):
    """Makes chains whose stationary law is a given density."""

    @abstractmethod
    def draw(
        self,
        log_density: LogDensity,
        start: Tensor,
        n: int,
        *,
        generator: torch.Generator,
    ) -> Chains:
        """Warm up from `start`, then keep `n` draws of every chain.

        Args:
            log_density: The targets; NaN and +inf count as -inf, and -inf as a rejection.
            start: First positions, (chains, batch, D); spread out as widely as the target, or wider, they make R-hat
                mean something. Their dtype and device are those of the draws.
            n: Draws kept per chain.
            generator: Source of all randomness, on the device of `start`.

        Raises:
            TypeError: If `start` is not floating point.
            ValueError: If shapes, devices or `n` are wrong, or if a chain starts where the log density is not finite.
        """


def kept(
    move: Callable[[int], Tensor], start: Float[Tensor, "chains batch dim"], n: int, thin: int
) -> Float[Tensor, "n chains batch dim"]:
    """Positions after every `thin`-th of n * thin moves; `move` takes the number of the move."""
    draws = start.new_empty(n, *start.shape)
    for i in range(n * thin):
        x = move(i)
        if (i + 1) % thin == 0:
            draws[i // thin] = x
    return draws
