"""Simulators that solve a differential equation on a grid.

An `Equation` is an ordinary simulator with a prior over physical parameters. Its observables are the initial fields
(which the equation draws itself) and the solution "u", in the layout (batch, time, channel, *space). Surrogates and
sensors need the two steps of an equation separately. `start` draws the initial fields, and `solution` computes the
solution from initial fields. In a `FieldEquation`, initial fields determine the solution: `solve` computes the
solution, and `residual` says how well a trajectory satisfies the equation.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Observable, Prior, Simulator, X
from sciinf.core.code import mark
from sciinf.core.component import to_json
from sciinf.core.files import sha256_of
from sciinf.simulators.dynamics.grid import BoxGrid

Theta = Float[Tensor, "batch theta"]
Trajectory = Float[Tensor, "batch time channel *space"]
Frames = Float[Tensor, "batch frame channel *space"]
SOLUTION = "u"
_SAID_ELSEWHERE = ("name", "source", "block", "prior", "given", "observables")


class FieldSource(Simulator, ABC):
    """A simulator of fields: an equation with its solver, or a surrogate of one.

    Attributes:
        grid: Grid of the fields. The grid of an ordinary differential equation has no directions.
        times: Times of the solution's frames, increasing; (0,) if the equation has no time. Solutions start at time 0,
            which is the first frame or lies before the first frame.
        given: Initial fields of solutions: name -> observable of shape (channel, *space).
        random: Whether two solutions of the same theta differ.
    """

    grid: BoxGrid
    times: tuple[float, ...]
    given: Mapping[str, Observable]
    random: bool

    @abstractmethod
    def start(self, theta: Theta, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the initial fields of solutions, name -> (batch, channel, *space)."""

    @abstractmethod
    def solution(self, theta: Theta, given: X, *, generator: torch.Generator) -> Trajectory:
        """Solutions at `times` from the initial fields `given`."""

    @final
    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        given = self.start(theta, generator=generator)
        found = {**given, SOLUTION: self.solution(theta, given, generator=generator)}
        return {name: value.to(self.observables[name].torch_dtype) for name, value in found.items()}


class Equation(FieldSource, ABC):
    """A differential equation with its solver.

    A stochastic equation draws a random `solution`. A deterministic equation is a `FieldEquation`, which has `solve`.
    """

    @final
    def settings(self) -> dict[str, str]:
        """Settings that identify an equation: name of each public attribute -> a text of its value.

        The settings include the grid, the times, and everything else that the constructor set. The entry "code" is a
        mark of the file that defines the class. A function is identified by its name.

        Raises:
            TypeError: If a value has no text that is the same in every process.
        """
        own = {"grid": self.grid, "times": self.times, **vars(self)}
        told = {name: value for name, value in sorted(own.items()) if name not in _SAID_ELSEWHERE and name[0] != "_"}
        try:
            found = {name: said(value) for name, value in told.items()}
        except TypeError as error:
            raise TypeError(
                f"the equation {self.name!r} cannot be told from others by what it was built with: {error}; what does "
                "not change solutions may stand under a name that begins with _"
            ) from error
        file = _file_of(type(self))
        return found if file is None else found | {"code": mark(file)}


class FieldEquation(Equation, ABC):
    """A deterministic differential equation and its solver, in double precision unless a subclass says otherwise."""

    @abstractmethod
    def solve(self, theta: Theta, given: X) -> Trajectory:
        """Solutions at `times` from the initial fields `given`."""

    @abstractmethod
    def residual(self, trajectory: Trajectory, theta: Theta, given: X) -> Frames:
        """Residual of the equation for a trajectory, which is 0 for an exact solution. Differentiable."""

    @final
    def solution(self, theta: Theta, given: X, *, generator: torch.Generator) -> Trajectory:
        return self.solve(theta.double(), given)


class Evolution(FieldEquation, ABC):
    """An equation du/dt = rate(u, theta)."""

    @abstractmethod
    def rate(self, field: Frames, theta: Theta) -> Frames:
        """Time derivative du/dt for each frame."""

    @final
    def residual(self, trajectory: Trajectory, theta: Theta, given: X) -> Frames:
        """Residual du/dt - rate at every frame except the first and the last.

        du/dt is the derivative of the parabola through three frames. Its error is h^2 / 6 d^3u/dt^3.
        """
        t = torch.tensor(self.times, dtype=trajectory.dtype, device=trajectory.device)
        t = t.reshape(-1, *[1] * (trajectory.ndim - 2))
        before, after = t[1:-1] - t[:-2], t[2:] - t[1:-1]
        earlier, here, later = trajectory[:, :-2], trajectory[:, 1:-1], trajectory[:, 2:]
        slope = (
            -after / (before * (before + after)) * earlier
            + (after - before) / (before * after) * here
            + before / (after * (before + after)) * later
        )
        return slope - self.rate(here, theta)


def described(
    given: Mapping[str, tuple[int, ...]],
    frames: int,
    channels: int,
    grid: BoxGrid,
    units: Mapping[str, str] | None = None,
) -> tuple[dict[str, Observable], dict[str, Observable]]:
    """The attributes `given` and `observables` of an equation, made from shapes.

    Args:
        given: Name of each initial field -> its leading axes, mostly (channels,).
        frames: Number of frames of the solution.
        channels: Number of channels of the solution.
        grid: Grid of all fields.
        units: Name of a field -> its unit; "" for a field that is not named.
    """
    space = grid.shape
    axes = ("z", "y", "x")[3 - len(space) :]
    units = units or {}
    starts = {
        name: Observable((*lead, *space), units.get(name, ""), ("channel", *axes)) for name, lead in given.items()
    }
    solution = Observable((frames, channels, *space), units.get(SOLUTION, ""), ("time", "channel", *axes))
    return starts, {**starts, SOLUTION: solution}


def said(value: Any) -> str:
    """Text that identifies the value of a setting, the same in every process.

    Raises:
        TypeError: If the value has no such text.
    """
    if isinstance(value, FunctionType):
        # The function is looked up in its own globals: a file that was loaded twice gives two modules.
        if value.__module__ == "__main__" or value.__globals__.get(value.__qualname__) is not value:
            to_json(value)  # to_json raises TypeError for a function that no module has.
        return value.__qualname__
    if isinstance(value, Tensor | np.ndarray):
        numbers = torch.as_tensor(value).cpu().contiguous()
        return f"{tuple(numbers.shape)} {sha256_of(numbers.numpy().tobytes())[:12]}"
    if isinstance(value, BoxGrid | torch.dtype):
        return repr(value)
    return json.dumps(to_json(value))


def _file_of(kind: type) -> Path | None:
    """The file that defines a class, or None for a class typed in an interactive session."""
    try:
        found = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        return None
    return Path(found) if found and Path(found).is_file() else None


def column(theta: Theta, prior: Prior, name: str, like: Tensor) -> Tensor:
    """Values of one parameter, reshaped to broadcast with the (batch, ...) tensor `like`, in its real dtype."""
    value = theta[:, prior.names.index(name)]
    return value.reshape(-1, *[1] * (like.ndim - 1)).to(like.real.dtype if like.is_complex() else like.dtype)
