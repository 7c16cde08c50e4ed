"""Interface of a data score: learned from fresh simulations, it measures how strange data are.

A score learns from some simulations and knows nothing of the data to be scored. `diagnostics.ood` ranks the score of
an observation among the scores of other simulations. So p is right for the model's own data, for any score.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Observable, Posterior, X
from sciinf.core.summary import expand_mask
from sciinf.networks.summaries.standardise import Standardise

MOST = 4_096  # With more numbers in a data set than this, no score is learned.
_CONSTANT = 1e-6
_BEND = 3.0


class DataScore(ABC):
    """Measure of how strange data are; its learned state is plain tensors, so that a file can store it."""

    @property
    def name(self) -> str:
        """Name of the score's class, by which a file identifies it."""
        return type(self).__name__

    @abstractmethod
    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Learn from simulations; the result is the same for the same generator.

        Args:
            posterior: Posterior that was learned for the parameters.
            x: Fresh simulations, name -> (n, *event).
            generator: Source of randomness.
        """

    @abstractmethod
    def distances(self, posterior: Posterior, learned: Mapping[str, Tensor], x: X) -> Float[Tensor, " batch"]:
        """Strangeness of each data set of a batch, from 0, float64.

        Each data set is scored alone, without randomness.
        """


def fits(observables: Mapping[str, Observable]) -> bool:
    """Whether data have few enough numbers to learn a score."""
    return sum(math.prod(spec.shape) for spec in Standardise(observables).specs.values()) <= MOST


class Numbers:
    """Data as rows of J numbers with mean 0 and sd 1; 0 where a number is missing or equal in all simulations.

    Args:
        observables: Observables that the simulator produces.
        learned: Earlier result of `tensors`, to standardise data as before.
    """

    def __init__(self, observables: Mapping[str, Observable], learned: Mapping[str, Tensor] | None = None) -> None:
        self.observables, self.standard = observables, Standardise(observables)
        self.scale = torch.zeros(2, 0, dtype=torch.float64)
        if learned is not None:
            self.standard.load_state_dict(part(learned, "standardise/"))
            self.scale = learned["scale"]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Learned standardisation, as plain tensors."""
        of = {f"standardise/{k}": v.contiguous() for k, v in self.standard.state_dict().items()}
        return of | {"scale": self.scale}

    def fit(self, x: X) -> Numbers:
        """Learn the standardisation of the numbers."""
        count = len(next(iter(x.values())))
        self.standard.fit(lambda: iter((Batch(torch.empty(count, 0), x),)))
        y = self.flat(self.standard(x, dtype=torch.float64))
        self.scale = torch.stack([y.mean(0), y.std(0)])
        return self

    def flat(self, z: Mapping[str, Tensor]) -> Tensor:
        """Standardised observables side by side, (batch, J)."""
        return torch.cat([value.reshape(len(value), -1) for value in z.values()], dim=1)

    def __call__(self, x: X) -> tuple[Tensor, Tensor]:
        """Standardised numbers, (batch, J), and a mask: 1 where a number is present and varies."""
        y = self.standard(x, dtype=torch.float64)
        mean, sd = self.scale
        there = self.flat({name: self.present(x, name) for name in y}) * (sd > _CONSTANT)
        return torch.where(there > 0, (self.flat(y) - mean) / sd.clamp_min(_CONSTANT), 0.0), there

    def present(self, x: X, name: str) -> Tensor:
        """Mask of an observable, 1 where a number is present, (batch, *event)."""
        shape = x[name].shape
        mask = expand_mask(x[self.standard.masks[name]], shape) if name in self.standard.masks else None
        return torch.ones(shape, dtype=torch.float64) if mask is None else mask.to(torch.float64)


def bent(u: Tensor) -> Tensor:
    """u where |u| is at most 3; beyond, it grows with the logarithm, so that values far out stay finite and far out."""
    size = u.abs()
    return torch.where(size > _BEND, u.sign() * (_BEND + (size - _BEND + 1).clamp_min(1).log()), u)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix`, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors with `prefix` added to their names."""
    return {f"{prefix}{k}": v.contiguous() for k, v in tensors.items()}
