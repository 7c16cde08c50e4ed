r"""Groups that poses live in: how poses are composed and undone, and the measure that no motion changes.

Of a pose g (*rows, k) and a blur e, the blurred pose is g e, and e = g^{-1} (g e). The invariant measure l(g) dg is
that of left and right motions alike (the group is unimodular): l(g e) d(g e) = l(g) dg for either factor fixed.
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
    """A unimodular group over k numbers; a subclass in a module of your own is named in `trust` when a fit is read."""

    @abstractmethod
    def compose(self, first: Elements, second: Elements) -> Elements:
        """first second."""

    @abstractmethod
    def inverse(self, element: Elements) -> Elements:
        """The element that undoes it."""

    @abstractmethod
    def between(self, first: Elements, second: Elements) -> Elements:
        """first^{-1} second, as blurs are read."""

    @abstractmethod
    def log_measure(self, element: Elements) -> Float[Tensor, "*rows"]:
        """log l."""

    @abstractmethod
    def coordinates(self, element: Elements) -> Float[Tensor, "*rows c"]:
        """Numbers that tell elements apart and do not jump: for networks, and to see whether chains have mixed."""


class Additive(Group):
    """Shifts, each number on its own: in time, in space."""

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
    """Factors above 0, each number on its own: of a brightness, of a size."""

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
    """Angles, each number on its own, in low..low + period. Blurs are read within half a period of 0.

    Args:
        low: Where the prior begins.
        period: After which all is as before: 2 pi of a direction, pi of an axis.

    Raises:
        ValueError: Unless the period is above 0.
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
