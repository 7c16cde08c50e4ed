"""Simulators that solve a differential equation on a grid, and what sensors see of it.

An `Equation` is an ordinary simulator: a prior over physical parameters, and as observables what the solution started
from (fields that it draws itself) and the solution "u", in the layout (batch, time, channel, *space). It also tells its
parts apart, which is what surrogates and sensors need: `start` draws what solutions start from, `solution` goes on from
there. A `FieldEquation` is one whose start has one solution: `solve` solves, `residual` says how well a trajectory
satisfies the equation.
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
    """A simulator of fields: an equation with its solver, or what stands in for it.

    Attributes:
        grid: Where fields live; without directions for ordinary differential equations, whose fields have no space.
        times: Of the solution's frames, increasing; (0,) if there is no time. Solutions start at 0, which may be the
            first of them or lie before it.
        given: What solutions start from: name -> (channel, *space).
        random: Whether two solutions of the same theta differ.
    """

    grid: BoxGrid
    times: tuple[float, ...]
    given: Mapping[str, Observable]
    random: bool

    @abstractmethod
    def start(self, theta: Theta, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw what solutions start from, name -> (batch, channel, *space)."""

    @abstractmethod
    def solution(self, theta: Theta, given: X, *, generator: torch.Generator) -> Trajectory:
        """Solutions at `times`."""

    @final
    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        given = self.start(theta, generator=generator)
        found = {**given, SOLUTION: self.solution(theta, given, generator=generator)}
        return {name: value.to(self.observables[name].torch_dtype) for name, value in found.items()}


class Equation(FieldSource, ABC):
    """An equation with its solver. One that is driven at random draws its `solution`, and has no `solve`."""

    @final
    def settings(self) -> dict[str, str]:
        """Its grid, times, and whatever else its constructor has set, and the mark of its class's file: name -> text.

        Raises:
            TypeError: If a value has no text that is the same in every process; of functions that is their name.
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
    """A differential equation and its solver, in double precision if it does not say otherwise."""

    @abstractmethod
    def solve(self, theta: Theta, given: X) -> Trajectory:
        """Solutions at `times`."""

    @abstractmethod
    def residual(self, trajectory: Trajectory, theta: Theta, given: X) -> Frames:
        """What is left of the equation when a trajectory is put into it: 0 for a solution. Differentiable."""

    @final
    def solution(self, theta: Theta, given: X, *, generator: torch.Generator) -> Trajectory:
        return self.solve(theta.double(), given)


class Evolution(FieldEquation, ABC):
    """An equation du/dt = rate(u, theta)."""

    @abstractmethod
    def rate(self, field: Frames, theta: Theta) -> Frames:
        """du/dt of frames."""

    @final
    def residual(self, trajectory: Trajectory, theta: Theta, given: X) -> Frames:
        """du/dt - rate, at frames that have one on either side.

        du/dt is the slope of the parabola through three frames, which is off by h^2 / 6 d^3u/dt^3.
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
    """`given` and `observables` of an equation.

    Args:
        given: Name -> leading axes, (channels,) mostly, of what solutions start from.
        frames: Of the solution.
        channels: Of the solution.
        grid: Where they live.
        units: Name -> unit; "" where left out.
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
    """What a setting is, the same in every process.

    Raises:
        TypeError: If it is nothing that has such a text.
    """
    if isinstance(value, FunctionType):
        # a file that was loaded a second time is another module, and the function still that of its name in its own
        if value.__module__ == "__main__" or value.__globals__.get(value.__qualname__) is not value:
            to_json(value)  # refuses what is not found by its name in a module
        return value.__qualname__
    if isinstance(value, Tensor | np.ndarray):
        numbers = torch.as_tensor(value).cpu().contiguous()
        return f"{tuple(numbers.shape)} {sha256_of(numbers.numpy().tobytes())[:12]}"
    if isinstance(value, BoxGrid | torch.dtype):
        return repr(value)
    return json.dumps(to_json(value))


def _file_of(kind: type) -> Path | None:
    """The file that defines a class; None for one that was typed in."""
    try:
        found = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        return None
    return Path(found) if found and Path(found).is_file() else None


def column(theta: Theta, prior: Prior, name: str, like: Tensor) -> Tensor:
    """A parameter of every row, shaped to go with (batch, ...) tensors like the one given."""
    value = theta[:, prior.names.index(name)]
    return value.reshape(-1, *[1] * (like.ndim - 1)).to(like.real.dtype if like.is_complex() else like.dtype)
