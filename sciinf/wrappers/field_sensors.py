"""What sensors with noise see of a simulator's fields."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Simulator, X, identity
from sciinf.core.simulator import earlier_identity, settings_of
from sciinf.dynamics.field_equation import SOLUTION, FieldSource
from sciinf.dynamics.grid import Points


@dataclass(frozen=True)
class Sensors:
    """Where and how fields are measured.

    Args:
        at: Coordinates of the sensors, one number or a sequence of numbers each, in the equation's units of length.
        sd: Of the independent Gaussian noise of a measurement, in the field's units.
        frames: Which of the solution's frames are measured; all where left out.
        channels: Which channels are; all where left out.

    Raises:
        ValueError: If there are no sensors, or sd is not positive.
    """

    at: Sequence[float | Sequence[float]]
    sd: float
    frames: Sequence[int] | None = None
    channels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.at, Iterable) or (isinstance(self.at, Tensor | np.ndarray) and self.at.ndim == 0):
            raise ValueError(f"sensors have coordinates each, at=[...], got {self.at!r}")
        each = [p.tolist() if isinstance(p, Tensor | np.ndarray) else p for p in self.at]
        object.__setattr__(self, "at", tuple(tuple(p) if isinstance(p, Sequence) else float(p) for p in each))
        if not self.at:
            raise ValueError("there are no sensors: give coordinates, at=[...]")
        check_sd(self.sd)


def observed(source: FieldSource, sensors: Sensors, *, beside: Sequence[str] = ()) -> ObservedFields:
    """A simulator of measurements "y" in place of fields.

    y has shape (frames, sensors of each channel): (5, 3) for three sensors in five frames of one channel, (3,) where
    one frame is measured. Where solutions follow from theta alone there is a likelihood, so that draws can be weighted
    by it; of an emulator with its error, or of random starts, there is none, nor where what is known beside tells of
    theta.

    Args:
        source: An equation, or a surrogate in its place (`surrogates.Emulator`).
        sensors: Where and how it is measured.
        beside: Names of what it starts from that is known too, and so is an observable as it is.

    Raises:
        TypeError: If `source` has no fields.
        ValueError: If a sensor lies outside the grid, or a frame, channel or name is not there.
    """
    return ObservedFields(fields_in_space(source), sensors, tuple(beside))


@final
class ObservedFields(Simulator):
    """What `observed` makes."""

    def __init__(self, source: FieldSource, sensors: Sensors, beside: tuple[str, ...]) -> None:
        spec = source.observables[SOLUTION]
        self.source_of_fields, self.sensors, self.beside = source, sensors, beside
        self.points = Points(source.grid, tuple(sensors.at))  # pyright: ignore[reportArgumentType]
        self.frames = chosen("frames", sensors.frames, spec.shape[0])
        self.channels = chosen("channels", sensors.channels, spec.shape[1])
        for name in beside:
            if name not in source.given:
                raise ValueError(f"{source.name!r} does not start from {name!r}, but from {', '.join(source.given)}")
        width, frames = len(self.channels) * len(self.points.at), len(self.frames)
        shape, dims = ((width,), ("sensor",)) if frames == 1 else ((frames, width), ("time", "sensor"))
        self.name, self.former_name = (
            name_after(f"{source.name}_observed", known, source.prior.to_json(), self._measured(), self.beside)
            for known in (identity(source), earlier_identity(source))
        )
        self.prior, self.block = source.prior, source.block
        self.observables = {"y": Observable(shape, spec.unit, dims), **{name: source.given[name] for name in beside}}
        self.log_likelihood = None if source.random or beside else self._log_likelihood

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        fields = self.source_of_fields(theta, generator=generator)
        seen = self.measured(fields[SOLUTION])
        noise = torch.randn(seen.shape, generator=generator, dtype=seen.dtype, device=generator.device)
        return {
            "y": (seen + self.sensors.sd * noise.to(seen.device)).float(),
            **{name: fields[name] for name in self.beside},
        }

    def settings(self) -> dict[str, str]:
        """Those of the equation, and how it is measured."""
        return {**settings_of(self.source_of_fields), "sensors": repr(self._measured())}

    def _measured(self) -> tuple[object, ...]:
        return self.points.at, float(self.sensors.sd), self.frames, self.channels

    def measured(self, solution: Tensor) -> Tensor:
        """Solutions (batch, time, channel, *space) at the sensors, without noise: (batch, *y)."""
        some = solution[:, list(self.frames)][:, :, list(self.channels)]
        seen = self.points.of(some).flatten(2)
        return seen[:, 0] if len(self.frames) == 1 else seen

    def _log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        middle = torch.cat([self.measured(solution) for solution in solutions(self.source_of_fields, theta)])
        off = (x["y"].to(theta.device).double() - middle.double()) / self.sensors.sd
        count = math.prod(off.shape[1:])
        total = -0.5 * off.square().flatten(1).sum(1) - count * math.log(self.sensors.sd * math.sqrt(2 * math.pi))
        return torch.where(total.isnan(), -math.inf, total)


def name_after(prefix: str, *said: object) -> str:
    """A name that is another for whatever else is said."""
    return f"{prefix}_{hashlib.sha256(repr(said).encode()).hexdigest()[:8]}"


def check_sd(sd: float) -> None:
    """Refuse what is no noise.

    Raises:
        ValueError: If it is no positive number.
    """
    if not isinstance(sd, Real) or not 0 < sd < math.inf:
        raise ValueError(f"the sd of a measurement's noise is one number, positive and finite, got {sd!r}")


def fields_in_space(source: FieldSource) -> FieldSource:
    """The same, or a refusal of what has no fields to put sensors in.

    Raises:
        TypeError: If it has none.
    """
    if not isinstance(source, FieldSource):
        raise TypeError(
            f"sensors see the fields of a differential equation, a FieldSource, got {type(source).__name__}; "
            "docs/skeletons/field_equation.py makes one of any solver"
        )
    if not source.grid.shape:
        raise TypeError(f"the solutions of {source.name!r} have no space to put sensors in")
    return source


def solutions(source: FieldSource, theta: Tensor) -> Iterator[Tensor]:
    """Solutions that follow from theta alone, a block of rows at a time.

    Raises:
        ValueError: If they are drawn, and the source says that they are not.
    """
    generator = torch.Generator(theta.device).manual_seed(0)
    before = generator.get_state()
    for part in theta.split(source.block):
        found = source.solution(part, source.start(part, generator=generator), generator=generator)
        if not torch.equal(before, generator.get_state()):
            raise ValueError(
                f"{source.name!r} draws its start or its solution, and says random = False: a likelihood of one draw "
                "would be wrong. Set self.random = True, or draw nothing"
            )
        yield found


def chosen(what: str, index: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Frames or channels that are meant, of so many; all where None.

    Raises:
        ValueError: If one is not there.
    """
    found = tuple(range(count)) if index is None else tuple(index) if isinstance(index, Iterable) else (index,)
    whole = all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in found)
    if not found or not whole or any(not 0 <= k < count for k in found):
        raise ValueError(f"{what} {list(found)}: the solution has {count}, called by numbers from 0 to {count - 1}")
    return tuple(int(k) for k in found)
