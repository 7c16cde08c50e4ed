"""The base class of surrogates, which are trained networks that replace a simulator that is too slow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.learned import Batch, Learned
from sciinf.core.observable import X

Values = Float[Tensor, "batch ..."]
# Draws are wrong if the ratio of their spread to the error of their mean is below ALIKE or above UNLIKE.
ALIKE, UNLIKE = 0.8, 1.25
# These are the largest numbers of rows and of output values in one prediction. A network holds about ten
# times as many values in memory.
_ROWS, _NUMBERS = 64, 2**22


class Surrogate(Learned, ABC):
    """A network that predicts one observable of a simulator from parameters and other observables.

    Each method has a file of its own, with the paper that it follows.

    Attributes:
        given: Names of the observables that are inputs of the prediction.
        target: Name of the observable that is predicted.
    """

    given: tuple[str, ...]
    target: str

    @abstractmethod
    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch ..."]:
        """The predicted target, in its own units.

        Args:
            theta: Parameters, in the prior's order and units.
            given: Input observables, name -> (batch, *event); other names are ignored.
        """

    @abstractmethod
    def spread(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, " batch"]:
        """The rms error expected at given parameters, in the target's units.

        The expectation is based on held-out simulations.
        """

    @abstractmethod
    def draw(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        """Draws of the target from its distribution given the inputs, one draw for each row.

        The number of rows is not limited.
        """

    def error(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        """Draws of the error of the prediction, solution minus prediction."""
        drawn = self.draw(theta, given, generator=generator)
        mean = predicted(self, Batch(theta, given))
        return drawn.to(mean.dtype) - mean


@torch.no_grad()
def predicted(surrogate: Surrogate, rows: Batch) -> Float[Tensor, "batch ..."]:
    """The predictions for simulations, computed in batches, on the device of the simulations."""
    most = max(1, min(_ROWS, _NUMBERS // math.prod(surrogate.observables[surrogate.target].shape)))
    parts = [rows.rows(slice(k, k + most)) for k in range(0, len(rows), most)]
    return torch.cat([surrogate.predict(part.theta, part.x).to(rows.theta.device) for part in parts])
