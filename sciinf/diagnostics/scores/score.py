"""The contract of a score: learned from fresh simulations, it says of data how strange they are.

A score is told some simulations and nothing of what it will be asked about. `diagnostics.ood` ranks what it says of an
observation among what it says of other simulations, so that p is right for the model's own data, whatever the score is.
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

MOST = 4_096  # numbers in a data set, beyond which nothing is learned
_CONSTANT = 1e-6
_BEND = 3.0


class DataScore(ABC):
    """How strange data are. What it has learned are plain tensors, so that a file can keep them."""

    @property
    def name(self) -> str:
        """Its class, by which a file knows it."""
        return type(self).__name__

    @abstractmethod
    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """What it learns from simulations, the same for the same generator.

        Args:
            posterior: What was learned of the parameters.
            x: Fresh simulations, name -> (n, *event).
            generator: Source of randomness.
        """

    @abstractmethod
    def distances(self, posterior: Posterior, learned: Mapping[str, Tensor], x: X) -> Float[Tensor, " batch"]:
        """How strange each of a batch of data is, from 0, float64; each by itself, with no randomness."""


def fits(observables: Mapping[str, Observable]) -> bool:
    """Whether data are of few enough numbers."""
    return sum(math.prod(spec.shape) for spec in Standardise(observables).specs.values()) <= MOST


class Numbers:
    """Data as rows of J numbers of mean 0 and sd 1; 0 where one is missing, or the same in all simulations.

    Args:
        observables: What the simulator produces.
        learned: What `tensors` gave, to see data as before.
    """

    def __init__(self, observables: Mapping[str, Observable], learned: Mapping[str, Tensor] | None = None) -> None:
        self.observables, self.standard = observables, Standardise(observables)
        self.scale = torch.zeros(2, 0, dtype=torch.float64)
        if learned is not None:
            self.standard.load_state_dict(part(learned, "standardise/"))
            self.scale = learned["scale"]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was learned, as plain tensors."""
        of = {f"standardise/{k}": v.contiguous() for k, v in self.standard.state_dict().items()}
        return of | {"scale": self.scale}

    def fit(self, x: X) -> Numbers:
        """Learn what numbers are measured by."""
        count = len(next(iter(x.values())))
        self.standard.fit(lambda: iter((Batch(torch.empty(count, 0), x),)))
        y = self.flat(self.standard(x, dtype=torch.float64))
        self.scale = torch.stack([y.mean(0), y.std(0)])
        return self

    def flat(self, z: Mapping[str, Tensor]) -> Tensor:
        """Standardised observables side by side, (batch, J)."""
        return torch.cat([value.reshape(len(value), -1) for value in z.values()], dim=1)

    def __call__(self, x: X) -> tuple[Tensor, Tensor]:
        """The numbers, (batch, J), and 1 where one is present and varies."""
        y = self.standard(x, dtype=torch.float64)
        mean, sd = self.scale
        there = self.flat({name: self.present(x, name) for name in y}) * (sd > _CONSTANT)
        return torch.where(there > 0, (self.flat(y) - mean) / sd.clamp_min(_CONSTANT), 0.0), there

    def present(self, x: X, name: str) -> Tensor:
        """1 where a number of an observable is present, (batch, *event)."""
        shape = x[name].shape
        mask = expand_mask(x[self.standard.masks[name]], shape) if name in self.standard.masks else None
        return torch.ones(shape, dtype=torch.float64) if mask is None else mask.to(torch.float64)


def bent(u: Tensor) -> Tensor:
    """u up to 3 in size, growing with its logarithm beyond: what is far out stays finite, and far out."""
    size = u.abs()
    return torch.where(size > _BEND, u.sign() * (_BEND + (size - _BEND + 1).clamp_min(1).log()), u)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same under names that begin so."""
    return {f"{prefix}{k}": v.contiguous() for k, v in tensors.items()}
