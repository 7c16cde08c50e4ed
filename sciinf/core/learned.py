"""What is trained on simulations, whatever it learns of them."""

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
    """Simulations side by side: theta (batch, D), and x as observable name -> (batch, *event)."""

    theta: Tensor
    x: X

    def __len__(self) -> int:
        return len(self.theta)

    def to(self, device: str | torch.device) -> Batch:
        return Batch(self.theta.to(device), {k: v.to(device) for k, v in self.x.items()})

    def rows(self, index: Tensor | slice) -> Batch:
        return Batch(self.theta[index], {k: v[index] for k, v in self.x.items()})


class Learned(nn.Module, Component, ABC):
    """A network with what it takes to train it. Built from a prior and the observables' specification.

    `learns` tells what the loss is made of, from which a recipe follows (`Recipe.resolved`): densities of rows;
    the same with summaries of sets, series or images, whose networks cost more than the density's; noise,
    drawn anew for every row at every step, so that rows are learnt by heart more slowly and need more steps; fields,
    which have no noise at all; or laws of fields, whose losses are as noisy as draws.
    `needs` names the observables without which rows are none to train on; all of `observables` where it is None.
    """

    learns: Learns = "densities"
    needs: ClassVar[Sequence[str] | None] = None
    prior: Prior
    observables: Mapping[str, Observable]

    @abstractmethod
    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Set the standardisation buffers from passes over the training rows (each call of `batches` is one pass)."""

    @abstractmethod
    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Training loss per row."""


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
