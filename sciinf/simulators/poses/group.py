r"""Groups of poses: composition and inverse of poses, and the invariant measure.

For a pose g (*rows, k) and a blur e, the blurred pose is g e, and e = g^{-1} (g e). The measure l(g) dg is invariant
under left and right multiplication (the group is unimodular): l(g e) d(g e) = l(g) dg for either factor fixed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component

Elements = Float[Tensor, "*rows k"]


class Group(Component, ABC):
    """A unimodular group whose elements are k numbers.

    If you define a subclass in your own module, name it in `trust` when a fit is read.
    """

    @abstractmethod
    def compose(self, first: Elements, second: Elements) -> Elements:
        """Group product of `first` and `second`, in this order."""

    @abstractmethod
    def inverse(self, element: Elements) -> Elements:
        """Inverse of a group element."""

    @abstractmethod
    def between(self, first: Elements, second: Elements) -> Elements:
        """Element first^{-1} second: the blur that takes pose `first` to blurred pose `second`."""

    @abstractmethod
    def log_measure(self, element: Elements) -> Float[Tensor, "*rows"]:
        """Log density log l of the invariant measure."""

    @abstractmethod
    def coordinates(self, element: Elements) -> Float[Tensor, "*rows c"]:
        """Continuous numbers that identify an element, for networks and for convergence checks of chains."""


class Additive(Group):
    """Group of shifts, in time or in space. Each of the k numbers is shifted separately."""

    def compose(self, first: Elements, second: Elements) -> Elements:
        return first + second

    def inverse(self, element: Elements) -> Elements:
        return -element

    def between(self, first: Elements, second: Elements) -> Elements:
        return second - first

    def log_measure(self, element: Elements) -> Float[Tensor, "*rows"]:
        return torch.zeros_like(element[..., 0])

    def coordinates(self, element: Elements) -> Float[Tensor, "*rows c"]:
        return element


class Multiplicative(Group):
    """Group of factors above 0, of a brightness or a size. Each of the k numbers is a separate factor."""

    def compose(self, first: Elements, second: Elements) -> Elements:
        return first * second

    def inverse(self, element: Elements) -> Elements:
        return 1 / element

    def between(self, first: Elements, second: Elements) -> Elements:
        return second / first

    def log_measure(self, element: Elements) -> Float[Tensor, "*rows"]:
        return -element.log().sum(-1)

    def coordinates(self, element: Elements) -> Float[Tensor, "*rows c"]:
        return element.log()


class Periodic(Group):
    """Group of angles from `low` to `low` + `period`. Each of the k numbers is a separate angle.

    Blurs are taken to lie within half a period of 0.

    Args:
        low: Lower end of the prior's range.
        period: Period of the angle: 2 pi for a direction, pi for an axis.

    Raises:
        ValueError: If the period is not above 0.
    """

    def __init__(self, low: float = 0.0, period: float = 2 * math.pi) -> None:
        if not period > 0:
            raise ValueError(f"a period is above 0, got {period}")
        self.low, self.period = float(low), float(period)

    def compose(self, first: Elements, second: Elements) -> Elements:
        return self.low + (first + second - self.low) % self.period

    def inverse(self, element: Elements) -> Elements:
        return -element

    def between(self, first: Elements, second: Elements) -> Elements:
        return (second - first + 0.5 * self.period) % self.period - 0.5 * self.period

    def log_measure(self, element: Elements) -> Float[Tensor, "*rows"]:
        return torch.zeros_like(element[..., 0])

    def coordinates(self, element: Elements) -> Float[Tensor, "*rows c"]:
        angle = element * (2 * math.pi / self.period)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)
