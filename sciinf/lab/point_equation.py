r"""Equations that are told at single points, of a solution and its derivatives there.

    r(u, du/dx_k, d^2u/dx_k^2; x, theta) = 0 in the box,      b(...) = 0 on its faces,

x = (t, *space), t first where there is time. `surrogates.Collocation` learns u from that alone, without a solution.
An equation with a solver is a `FieldEquation` that is `AtPoints` as well; one without is `Unsolved`. All that solutions
start from must follow from theta: `given` is empty.

`CollocationPoints` are what is simulated of such an equation for a training: parameters, and points. It solves nothing.
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
    """An equation that is told at points. All derivatives that it may use are those of a `Jet`."""

    @abstractmethod
    def residual_at(
        self, u: Jet, at: Float[Tensor, "row direction"], theta: Mapping[str, Float[Tensor, "row 1"]]
    ) -> Float[Tensor, "row equation"]:
        """What is left of the equation at points of the box: 0 for a solution.

        Args:
            u: The field there.
            at: The points, (t, *space), t left out where there is no time.
            theta: Name of a parameter -> its value in each row, (row, 1), which goes with (row, channel).
        """

    @abstractmethod
    def edge_at(
        self, u: Jet, at: Float[Tensor, "row direction"], theta: Mapping[str, Float[Tensor, "row 1"]]
    ) -> Float[Tensor, "row condition"]:
        """What is left of the conditions on the faces of the box: at t = 0, and at both ends of each direction that is
        not periodic, where `at` is exactly 0 or the length. It must be of the size of u, and 0 where nothing is asked.
        """


class Unsolved(Equation, AtPoints, ABC):
    """An equation without a solver."""

    given: Mapping[str, Observable] = {}
    random = False

    @final
    def start(self, theta: Theta, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    @final
    def solution(self, theta: Theta, given: X, *, generator: torch.Generator) -> Trajectory:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"the equation {self.name!r} has no solver: train(Collocation(equation), CollocationPoints(equation), ...) "
            "needs none, and Emulator(fit, equation, error=False) is then its simulator"
        )


@final
class CollocationPoints(Simulator):
    """What a training by collocation is given of an equation: parameters of the prior, and a point for each.

    Args:
        equation: Which.

    Raises:
        TypeError: If the equation is not told at points.
    """

    def __init__(self, equation: AtPoints) -> None:
        if not isinstance(equation, AtPoints):
            raise TypeError(f"expected an equation that is `AtPoints`, got {type(equation).__name__}")
        self.equation, self.name, self.prior, self.block = equation, equation.name, equation.prior, equation.block
        self.observables = {"at": Observable((len(box(equation)),))}
        self.settings, self.source = equation.settings, equation.source

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        lengths = torch.tensor(box(self.equation), device=theta.device)
        return {"at": lengths * torch.rand(len(theta), len(lengths), generator=generator, device=generator.device)}


def timed(equation: FieldSource) -> bool:
    """Whether there is time."""
    return max(equation.times) > 0


def box(equation: FieldSource) -> tuple[float, ...]:
    """Lengths of the box in which the equation holds: of time, where there is time, then of space."""
    return (*([max(equation.times)] if timed(equation) else []), *equation.grid.lengths)


def rings(equation: FieldSource) -> tuple[bool, ...]:
    """Which of these directions are periodic."""
    return (*([False] if timed(equation) else []), *[equation.grid.periodic] * len(equation.grid.lengths))


def faces(equation: FieldSource) -> list[tuple[int, float]]:
    """Faces that have conditions: a direction, and the share of its length, 0 or 1."""
    first = int(timed(equation))
    ends = [(k, end) for k in range(first, len(box(equation))) if not equation.grid.periodic for end in (0.0, 1.0)]
    return [(0, 0.0)] * first + ends
