"""What every summary network does: one observable of an observation -> a vector of features.

Shapes: x (batch, *event), standardised, float; mask (batch, *m), True where present, with m the event shape or its
leading axes; features (batch, F). What x holds where the mask is False changes nothing, be it NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciinf.core.checks import check_positive as check_positive  # simulators with networks of their own take it here
from sciinf.core.component import Component
from sciinf.core.observable import Observable

Entries = Float[Tensor, "batch ..."]
Present = Bool[Tensor, "batch ..."]
IMAGE_AXES = ("y", "x", "row", "column")
HINT = "an observable called <name>_mask, dtype bool, is the mask of <name>"


class SummaryNetwork(nn.Module, ABC):
    """A built summary network.

    Args:
        event: Shape of one observation of the observable.
        masked: Whether a mask comes with it.
    """

    features: int

    def __init__(self, event: Sequence[int], masked: bool) -> None:
        super().__init__()
        self.event, self.masked = tuple(event), masked

    @abstractmethod
    def summarise(self, x: Entries, mask: Present) -> Tensor:
        """Features (batch, F) of x whose missing entries are zero; the mask has x's full shape."""

    def forward(self, x: Float[Tensor, "batch ..."], mask: Tensor | None = None) -> Float[Tensor, "batch feature"]:
        """Features of each observation.

        Raises:
            ValueError: If the shape is another than the network was built for, or a mask is missing or unexpected.
        """
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"the summary network was built for {self.event}, got {tuple(x.shape[1:])} per row")
        if self.masked != (mask is not None):
            raise ValueError(f"the summary network was built {'with' if self.masked else 'without'} a mask; {HINT}")
        if mask is None:
            return self.summarise(x, torch.ones_like(x, dtype=torch.bool))
        full = expand_mask(mask, x.shape)
        return self.summarise(torch.where(full, x, 0.0), full)

    def items(self, x: Entries, mask: Present, axis: int) -> tuple[Float[Tensor, "batch n f"], Bool[Tensor, "batch n"]]:
        """Entries along an axis of the event, beside their mask where there is one; and which have any present."""
        items, known = rows_of(x, axis), rows_of(mask, axis)
        return torch.cat([items, known.to(items.dtype)], dim=-1) if self.masked else items, known.any(-1)


class Summary(Component, ABC):
    """How a summary network is made, without its sizes, which the observable decides."""

    @abstractmethod
    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        """A network with freshly drawn weights.

        Args:
            spec: The observable it summarises.
            masked: Whether a mask comes with it.

        Raises:
            ValueError: If the network is not made for observables of this shape.
        """


def expand_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask (batch, *m) over all of (batch, *event), of which m are the leading axes.

    Raises:
        ValueError: If m is neither the event shape nor its leading axes.
    """
    if tuple(mask.shape) != tuple(shape[: mask.ndim]):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}, expected the data's shape {tuple(shape)} or its leading axes"
        )
    return mask.bool().reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)).expand(*shape)


def rows_of(x: Tensor, axis: int) -> Tensor:
    """x (batch, *event) as (batch, n, F), n the length of the event's axis `axis`, the others flattened."""
    return x.movedim(axis + 1, 1).flatten(2) if x.ndim > 2 else x.unsqueeze(-1)


def find_axis(spec: Observable, name: str) -> int:
    """The event axis that is called `name`, or the first one where the axes have no names.

    Raises:
        ValueError: If the observable is a plain number, or none of its named axes is called so.
    """
    if not spec.shape:
        raise ValueError(f"a plain number has no axis {name!r}; use MLP")
    if not spec.dims:
        return 0
    if name not in spec.dims:
        raise ValueError(f"none of the axes {spec.dims} is called {name!r}; name it so in the observable's dims")
    return spec.dims.index(name)
