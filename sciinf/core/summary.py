"""The base classes of summary networks, which map one observable of an observation to a vector of features.

Shapes: x (batch, *event), standardised, float; mask (batch, *m), True where a value is present, where m is
the event shape or its leading axes; features (batch, F). Values of x where the mask is False have no effect,
even NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

# Simulators with networks of their own import `check_positive` from here.
from sciinf.core.checks import check_positive as check_positive
from sciinf.core.component import Component
from sciinf.core.observable import Observable

Entries = Float[Tensor, "batch ..."]
Present = Bool[Tensor, "batch ..."]
IMAGE_AXES = ("y", "x", "row", "column")
HINT = "an observable called <name>_mask, dtype bool, is the mask of <name>"


class SummaryNetwork(nn.Module, ABC):
    """A summary network with weights, for an observable of fixed shape.

    Args:
        event: Shape of the observable in one observation.
        masked: Whether the observable has a mask.
    """

    features: int

    def __init__(self, event: Sequence[int], masked: bool) -> None:
        super().__init__()
        self.event, self.masked = tuple(event), masked

    @abstractmethod
    def summarise(self, x: Entries, mask: Present) -> Tensor:
        """The features of x, (batch, F).

        Args:
            x: Values, in which missing entries are zero.
            mask: Whether each value is present, in the full shape of x.
        """

    def forward(self, x: Float[Tensor, "batch ..."], mask: Tensor | None = None) -> Float[Tensor, "batch feature"]:
        """The features of each observation.

        Raises:
            ValueError: If the network was built for another shape, or if a mask is missing or unexpected.
        """
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"the network was built for the shape {self.event}, got {tuple(x.shape[1:])}")
        if self.masked != (mask is not None):
            raise ValueError(f"the network was built {'with' if self.masked else 'without'} a mask; {HINT}")
        if mask is None:
            return self.summarise(x, torch.ones_like(x, dtype=torch.bool))
        full = expand_mask(mask, x.shape)
        return self.summarise(torch.where(full, x, 0.0), full)

    def items(self, x: Entries, mask: Present, axis: int) -> tuple[Float[Tensor, "batch n f"], Bool[Tensor, "batch n"]]:
        """The entries along an axis of the event, and whether each has any value present.

        If the network has a mask, the mask of the entries is appended to their values.
        """
        items, known = rows_of(x, axis), rows_of(mask, axis)
        return torch.cat([items, known.to(items.dtype)], dim=-1) if self.masked else items, known.any(-1)


class Summary(Component, ABC):
    """The configuration of a summary network, without the sizes that follow from the observable."""

    @abstractmethod
    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        """A network for an observable, with newly drawn weights.

        Args:
            spec: The observable.
            masked: Whether the observable has a mask.

        Raises:
            ValueError: If the network does not fit observables of this shape.
        """


def expand_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask (batch, *m) expanded to the shape (batch, *event), whose leading axes are m.

    Raises:
        ValueError: If m is neither the event shape nor its leading axes.
    """
    if tuple(mask.shape) != tuple(shape[: mask.ndim]):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}, expected the data's shape {tuple(shape)} or its leading axes"
        )
    return mask.bool().reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)).expand(*shape)


def rows_of(x: Tensor, axis: int) -> Tensor:
    """x (batch, *event) as (batch, n, F), n the length of the event's `axis` and the others flattened."""
    return x.movedim(axis + 1, 1).flatten(2) if x.ndim > 2 else x.unsqueeze(-1)


def find_axis(spec: Observable, name: str) -> int:
    """The index of the event axis with a given name, or 0 if the axes have no names.

    Raises:
        ValueError: If the observable is a plain number, or if none of its named axes has this name.
    """
    if not spec.shape:
        raise ValueError(f"a plain number has no axis {name!r}; use MLP")
    if not spec.dims:
        return 0
    if name not in spec.dims:
        raise ValueError(f"none of the axes {spec.dims} is called {name!r}; use it in the observable's dims")
    return spec.dims.index(name)
