"""Surrogates: what stands in for a simulator that is too slow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.learned import Batch, Learned
from sciinf.core.observable import X

Values = Float[Tensor, "batch ..."]
ALIKE, UNLIKE = 0.8, 1.25  # spread of draws over the error of their mean, beyond which they are not right
_ROWS, _NUMBERS = 64, 2**22  # predicted at once, at most: a network holds some ten times as many


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
    def draw(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        """Solutions as uncertain as they are, one for each row, of any number of rows."""

    def error(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        """Draws of what the prediction is off by, solution minus prediction."""
        drawn = self.draw(theta, given, generator=generator)
        mean = predicted(self, Batch(theta, given))
        return drawn.to(mean.dtype) - mean


@torch.no_grad()
def predicted(surrogate: Surrogate, rows: Batch) -> Float[Tensor, "batch ..."]:
    """Predictions for simulations, in pieces, on their device."""
    most = max(1, min(_ROWS, _NUMBERS // math.prod(surrogate.observables[surrogate.target].shape)))
    parts = [rows.rows(slice(k, k + most)) for k in range(0, len(rows), most)]
    return torch.cat([surrogate.predict(part.theta, part.x).to(rows.theta.device) for part in parts])
