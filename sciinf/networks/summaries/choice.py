"""Which summary network an observable gets where nobody chose one."""

from __future__ import annotations

import math

from sciinf.core.observable import Observable
from sciinf.core.summary import IMAGE_AXES, Summary
from sciinf.networks.summaries.exchangeable import DeepSet
from sciinf.networks.summaries.image import CNN
from sciinf.networks.summaries.series import Conv1d
from sciinf.networks.summaries.vector import MLP

TINY = 10  # numbers that the flow's own networks can look at directly
FEW = 64  # numbers for which knowing their order in space or time gains nothing


def passes(spec: Observable, masked: bool) -> bool:
    """Whether the numbers are so few that they pass as they are."""
    return "item" not in spec.dims and not masked and math.prod(spec.shape) <= TINY


def choose(spec: Observable, masked: bool) -> Summary:
    """A summary network by the names of the observable's axes and their number.

    A set (an axis called "item") gets a `DeepSet` whatever its size, since the order of its items must not matter.
    At most 10 complete numbers pass as they are; at most 64 go through an `MLP`. A series (an axis called "time")
    gets a `Conv1d`, with a mask too: it reads the mask as channels, which tells gaps from zeros, and costs far less
    than a `Transformer`. An image (two axes of "y", "x", "row", "column") gets a `CNN`; everything else an `MLP`.

    Args:
        spec: The observable.
        masked: Whether a mask comes with it.
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
