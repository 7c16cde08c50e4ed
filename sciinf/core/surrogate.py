"""Surrogates: what stands in for a simulator that is too slow."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.learned import Learned
from sciinf.core.simulator import X


class Surrogate(Learned, ABC):
    """What is learned of a simulator's fields: one of its observables from parameters and others. One paper, one file.

    Attributes:
        given: Names of the observables that it starts from.
        target: Name of the one that it predicts.
    """

    given: tuple[str, ...]
    target: str

    @abstractmethod
    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch ..."]:
        """The target, in its own units.

        Args:
            theta: Parameters, in the prior's order and units.
            given: Name -> (batch, *event) of what it starts from; other names are ignored.
        """

    @abstractmethod
    def spread(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, " batch"]:
        """The rms error that held-out simulations lead to expect at parameters, in the target's units."""

    @abstractmethod
    def error(
        self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator
    ) -> Float[Tensor, "batch ..."]:
        """Draws of what the prediction is off by, solution minus prediction, as held-out simulations tell."""
