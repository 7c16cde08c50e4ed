"""Default choice of a summary network for an observable."""

from __future__ import annotations

import math

from sciinf.core.observable import Observable
from sciinf.core.summary import IMAGE_AXES, Summary
from sciinf.networks.summaries.exchangeable import DeepSet
from sciinf.networks.summaries.image import CNN
from sciinf.networks.summaries.series import Conv1d
from sciinf.networks.summaries.vector import MLP

TINY = 10  # Largest number of values that pass to the flow without a summary network.
FEW = 64  # Largest number of values whose order in space or time carries no useful information.


def passes(spec: Observable, masked: bool) -> bool:
    """Whether an observable has so few values that they need no summary network."""
    return "item" not in spec.dims and not masked and math.prod(spec.shape) <= TINY


def choose(spec: Observable, masked: bool) -> Summary:
    """The default summary network, chosen by the names of the observable's axes and the number of its values.

    A set (an axis called "item") gets a `DeepSet` for any size, because the order of its items must not matter. At most
    10 complete values pass unchanged, and at most 64 go through an `MLP`. A series (an axis called "time") gets a
    `Conv1d`, with or without a mask. `Conv1d` reads the mask as channels, which distinguishes gaps from zeros, and
    costs far less than a `Transformer`. An image (two axes of "y", "x", "row", "column") gets a `CNN`. Everything else
    gets an `MLP`.

    Args:
        spec: Description of the observable.
        masked: Whether the observable has a mask.
    """
    numbers = math.prod(spec.shape)
    if "item" in spec.dims:
        return DeepSet()
    if passes(spec, masked):
        return MLP(hidden=())
    if not masked and numbers <= FEW:
        return MLP(features=32, hidden=(64, 64))
    if "time" in spec.dims:
        return Conv1d()
    if sum(name in IMAGE_AXES for name in spec.dims) == 2:
        return CNN()
    return MLP(features=32, hidden=(128, 128))
