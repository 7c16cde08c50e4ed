r"""Equations that are given by the residual of a solution and its derivatives at single points.

    r(u, du/dx_k, d^2u/dx_k^2; x, theta) = 0 in the box,      b(...) = 0 on its faces,

where x = (t, *space), or space alone if the equation has no time. `lab.Collocation` learns u from these
residuals alone, without solutions. An equation with a solver is a `FieldEquation` that is `AtPoints` as well;
an equation without a solver is `Unsolved`. The initial state must follow from theta, so that `given` is
empty.

`CollocationPoints` simulates the training data for such an equation: parameters and points, without
solutions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Observable, Simulator, X
from sciinf.core.component import Component
from sciinf.lab.jets import Jet
from sciinf.simulators.dynamics.field_equation import Equation, FieldSource, Theta, Trajectory


class AtPoints(FieldSource, Component, ABC):
    """An equation that is given by its residuals at points, computed from a `Jet`.

    The residuals can use only the derivatives that a `Jet` has.
    """

    @abstractmethod
    def residual_at(
        self, u: Jet, at: Float[Tensor, "row direction"], theta: Mapping[str, Float[Tensor, "row 1"]]
    ) -> Float[Tensor, "row equation"]:
        """The residual of the equation at points of the box, which is 0 for a solution.

        Args:
            u: Values and derivatives of the field at the points.
            at: The points, (t, *space), or (*space) if the equation has no time.
            theta: Mapping from the name of a parameter to its value in each row, (row, 1). This shape
                broadcasts with (row, channel).
        """

    @abstractmethod
    def edge_at(
        self, u: Jet, at: Float[Tensor, "row direction"], theta: Mapping[str, Float[Tensor, "row 1"]]
    ) -> Float[Tensor, "row condition"]:
        """The residual of the conditions on the faces of the box, which is 0 for a solution.

        The faces are t = 0, and both ends of each direction that is not periodic; there `at` is exactly 0 or
        the length. The residual must have the size and unit of u. It must be 0 where the equation has no
        condition.

        Args:
            u: Values and derivatives of the field at the points.
            at: The points, as for `residual_at`.
            theta: Parameters, as for `residual_at`.
        """


class Unsolved(Equation, AtPoints, ABC):
    """An equation without a solver, known only by its residuals at points."""

    given: Mapping[str, Observable] = {}
    random = False

    @final
    def start(self, theta: Theta, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    @final
    def solution(self, theta: Theta, given: X, *, generator: torch.Generator) -> Trajectory:
        """Raise an error, because the equation has no solver.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"the equation {self.name!r} has no solver: train(Collocation(equation), CollocationPoints(equation), ...) "
            "needs none, and Emulator(fit, equation, error=False) is then its simulator"
        )


@final
class CollocationPoints(Simulator):
    """A simulator of training data for `Collocation`: parameters from the prior, and a point for each.

    Args:
        equation: The equation that the network will learn.

    Raises:
        TypeError: If the equation is not `AtPoints`.
    """

    def __init__(self, equation: AtPoints) -> None:
        if not isinstance(equation, AtPoints):
            raise TypeError(f"CollocationPoints needs an equation that is `AtPoints`, got {type(equation).__name__}")
        self.equation, self.name, self.prior, self.block = equation, equation.name, equation.prior, equation.block
        self.observables = {"at": Observable((len(box(equation)),))}
        self.settings, self.source = equation.settings, equation.source

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        lengths = torch.tensor(box(self.equation), device=theta.device)
        return {"at": lengths * torch.rand(len(theta), len(lengths), generator=generator, device=generator.device)}


def timed(equation: FieldSource) -> bool:
    """Whether the equation has time as a direction."""
    return max(equation.times) > 0


def box(equation: FieldSource) -> tuple[float, ...]:
    """The lengths of the box in which the equation holds: of time, if there is time, then of space."""
    return (*([max(equation.times)] if timed(equation) else []), *equation.grid.lengths)


def rings(equation: FieldSource) -> tuple[bool, ...]:
    """Whether each direction of `box` is periodic."""
    return (*([False] if timed(equation) else []), *[equation.grid.periodic] * len(equation.grid.lengths))


def faces(equation: FieldSource) -> list[tuple[int, float]]:
    """The faces with conditions, each as the index of a direction and its end, 0 or 1."""
    first = int(timed(equation))
    ends = [(k, end) for k in range(first, len(box(equation))) if not equation.grid.periodic for end in (0.0, 1.0)]
    return [(0, 0.0)] * first + ends
