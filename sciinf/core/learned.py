"""Base classes of all networks that are trained on simulations, and their batches (`Batch`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.component import Component
from sciinf.core.observable import Observable, X
from sciinf.core.prior import Prior

Learns = Literal["densities", "summaries", "noise", "fields", "noisy fields"]


@dataclass(frozen=True)
class Batch:
    """A batch of simulations: theta, (batch, D), and x, observable name -> data (batch, *event)."""

    theta: Tensor
    x: X

    def __len__(self) -> int:
        return len(self.theta)

    def to(self, device: str | torch.device) -> Batch:
        return Batch(self.theta.to(device), {k: v.to(device) for k, v in self.x.items()})

    def rows(self, index: Tensor | slice) -> Batch:
        return Batch(self.theta[index], {k: v[index] for k, v in self.x.items()})


class Learned(nn.Module, Component, ABC):
    """A network with its standardisation and loss, built from a prior and the observables' specification.

    `learns` is the kind of the loss, which determines the default recipe (`Recipe.resolved`):

    - "densities": densities of rows.
    - "summaries": densities of rows, with summaries of sets, series or images. The networks of summaries cost
      more than that of the density.
    - "noise": noise that is drawn anew for each row at each step. The network overfits the rows more slowly
      and needs more steps.
    - "fields": fields, whose losses have no noise at all.
    - "noisy fields": distributions of fields, whose losses are as noisy as draws.

    `needs` names the observables without which a row cannot be used for training; None means all observables.
    """

    learns: Learns = "densities"
    needs: ClassVar[Sequence[str] | None] = None
    prior: Prior
    observables: Mapping[str, Observable]

    @abstractmethod
    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Set the standardisation buffers from the training rows; each call of `batches` is one pass."""

    @abstractmethod
    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """The training loss of each row, (batch,)."""


class Adjusting(ABC):
    """A network that is adjusted once after its training.

    `on_training_rows` tells which rows it is adjusted to: its training rows, or rows that it was not trained on.
    """

    on_training_rows: ClassVar[bool] = False

    @abstractmethod
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Adjust the network to some rows.

        Args:
            batches: Function whose every call is one pass over the rows.

        Returns:
            Figures for the fit's record.
        """
