"""Simulators of noisy sensor measurements of another simulator's fields, at fixed sensors or at random places.

With random places, one trained estimator serves any number of measurements at any places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Observable, Simulator, X, identity
from sciinf.core.checks import check_whole
from sciinf.core.files import sha256_of
from sciinf.core.observation import convert
from sciinf.core.simulator import earlier_identity, settings_of
from sciinf.simulators.dynamics.field_equation import SOLUTION, FieldSource
from sciinf.simulators.dynamics.grid import GridInterpolation, interpolated

MASK = "y_mask"


def scattered(
    source: FieldSource,
    most: int,
    *,
    sd: float,
    least: int = 1,
    frames: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
) -> ScatteredFields:
    """Make a simulator of field measurements at `least` to `most` random places, with all numbers equally likely.

    The observable "y" (most, coordinates and values) is a set, and each item of the set is one place. An item has the
    coordinates in the order of the grid's axes, then the measured values of each frame and channel, frames first. The
    observable "y_mask" is True where there is an item; it is left out if all sets have the same size. Entries without
    an item are 0. An estimator trained on these sets gives posteriors for any sensors.
    `ScatteredFields.observation` puts real measurements into this form.

    Args:
        source: An equation, or a surrogate of one (`emulators.Emulator`).
        most: Largest number of places.
        sd: Standard deviation of the independent Gaussian noise of a measurement, in the field's units.
        least: Smallest number of places.
        frames: Numbers of the solution's frames that are measured; all by default.
        channels: Numbers of the channels that are measured; all by default.

    Raises:
        TypeError: If `source` has no fields, or its fields have no space.
        ValueError: If a number of places is not an int of at least 1, `least` is above `most`, sd is not positive, or a
            frame or channel does not exist.
    """
    check_whole("least", least, 1)
    check_whole("most", most, least)
    check_sd(sd)
    return ScatteredFields(fields_in_space(source), (least, most), sd, frames, channels)


@final
class ScatteredFields(Simulator):
    """The simulator of measurements at random places that `scattered` makes."""

    def __init__(
        self,
        source: FieldSource,
        sizes: tuple[int, int],
        sd: float,
        frames: Sequence[int] | None,
        channels: Sequence[int] | None,
    ) -> None:
        spec = source.observables[SOLUTION]
        self.source_of_fields, self.sizes, self.sd = source, sizes, sd
        self.frames = chosen("frames", frames, spec.shape[0])
        self.channels = chosen("channels", channels, spec.shape[1])
        self.directions, (least, most) = len(source.grid.shape), sizes
        width = self.directions + len(self.frames) * len(self.channels)
        self.name, self.former_name = (
            name_after(f"{source.name}_scattered", known, source.prior.to_json(), self._measured())
            for known in (identity(source), earlier_identity(source))
        )
        self.emulated_by = source.emulated_by
        self.prior, self.block, self.field = source.prior, source.block, spec
        self.observables = {"y": Observable((most, width), dims=("item", "feature"))}
        if least < most:
            self.observables[MASK] = Observable((most,), dims=("item",), dtype="bool")
        self.log_likelihood = None if source.random else self._log_likelihood

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        (least, most), rows = self.sizes, len(theta)
        solution = self.source_of_fields(theta, generator=generator)[SOLUTION]
        options: dict[str, Any] = {"generator": generator, "device": generator.device}
        lengths = torch.tensor(self.source_of_fields.grid.lengths)
        at = torch.rand(rows, most, self.directions, **options).to(theta.device) * lengths.to(theta.device)
        seen = self.measured(solution, at).float()
        seen = seen + self.sd * torch.randn(seen.shape, **options).to(seen)
        count = torch.randint(least, most + 1, (rows, 1), **options).to(theta.device)
        there = torch.arange(most, device=theta.device) < count
        return self._masked(torch.cat([at.to(seen), seen], -1), there)

    def settings(self) -> dict[str, str]:
        """Settings of the source of fields, and "sensors", a description of the measurement: name -> text."""
        return {**settings_of(self.source_of_fields), "sensors": repr(self._measured())}

    def _measured(self) -> tuple[object, ...]:
        return self.sizes, float(self.sd), self.frames, self.channels

    def measured(
        self, solution: Float[Tensor, "batch time channel *space"], at: Float[Tensor, "batch place dim"]
    ) -> Float[Tensor, "batch place value"]:
        """Values of solutions at places, without noise. Each row has its own places."""
        some = solution[:, list(self.frames)][:, :, list(self.channels)]
        return interpolated(self.source_of_fields.grid, some.flatten(1, 2), at).mT

    def observation(self, at: Any, values: Any) -> dict[str, Tensor]:
        """Observation of this simulator from real measurements.

        Args:
            at: Coordinates of the places, (places, directions), or (places,) if there is one direction.
            values: Measured values, (places, frames, channels). An axis of frames or channels of length 1 may be left
                out. Values with a unit, as of astropy, are converted to the field's unit.

        Raises:
            ValueError: If shapes do not match, a value is not finite, a unit does not convert to the field's unit, a
                place has a unit or lies outside the grid, or simulations never have this number of places.
        """
        grid, (least, most) = self.source_of_fields.grid, self.sizes
        plain = convert(getattr(values, "value", values), getattr(values, "unit", None), self.field, "y")
        if getattr(at, "unit", None) is not None:
            raise ValueError(f"places are given in {str(at.unit)!r}, and the grid has plain coordinates; give those")
        where, seen = (torch.as_tensor(v, dtype=torch.float32) for v in (at, plain))
        where = where[:, None] if where.ndim == 1 else where
        whole = (len(self.frames), len(self.channels))
        short = tuple(n for n in whole if n > 1)
        if where.ndim != 2 or where.shape[1] != self.directions or seen.shape[1:] not in (whole, whole[:1], short):
            raise ValueError(
                f"places {tuple(where.shape)} and values {tuple(seen.shape)} are not (places, {self.directions}) and "
                f"(places, {whole[0]} frames, {whole[1]} channels)"
            )
        count = len(where)
        if len(seen) != count or not least <= count <= most:
            raise ValueError(f"{count} places and {len(seen)} values; there are to be {least} to {most} of both")
        if not bool(((where >= 0) & (where <= torch.tensor(grid.lengths))).all()):
            raise ValueError(f"some places lie outside the box of {grid.lengths}")
        if not bool(seen.isfinite().all()):
            raise ValueError("some values are not finite: leave their places out")
        y = torch.zeros(1, *self.observables["y"].shape)
        y[0, :count] = torch.cat([where, seen.flatten(1) if seen.ndim > 1 else seen[:, None]], 1)
        return {name: value[0] for name, value in self._masked(y, torch.arange(most)[None] < count).items()}

    def _masked(self, y: Tensor, there: Tensor) -> dict[str, Tensor]:
        found = {"y": torch.where(there[..., None], y, torch.zeros_like(y))}
        return found | {MASK: there} if MASK in self.observables else found

    def _log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        """Log likelihood of the measured values, given their places; missing items are left out."""
        y = x["y"].to(theta.device).double().expand(len(theta), -1, -1)
        there = x[MASK].to(theta.device).expand(len(theta), -1) if MASK in x else torch.ones_like(y[..., 0]).bool()
        at, values = y[..., : self.directions], y[..., self.directions :]
        pairs = zip(solutions(self.source_of_fields, theta), at.split(self.block), strict=True)
        middle = torch.cat([self.measured(solution, places) for solution, places in pairs])
        law = torch.distributions.Normal(middle.double(), self.sd, validate_args=False)
        each = law.log_prob(values).sum(-1)
        total = torch.where(there, each, torch.zeros_like(each)).sum(1)
        return torch.where(total.isnan(), -math.inf, total)


@dataclass(frozen=True)
class Sensors:
    """Positions of sensors, and how they measure fields.

    Args:
        at: Coordinates of the sensors, one number or a sequence of numbers for each, in the equation's unit of length.
        sd: Standard deviation of the independent Gaussian noise of a measurement, in the field's units.
        frames: Numbers of the solution's frames that are measured; all by default.
        channels: Numbers of the channels that are measured; all by default.

    Raises:
        ValueError: If there are no sensors, or sd is not positive.
    """

    at: Sequence[float | Sequence[float]]
    sd: float
    frames: Sequence[int] | None = None
    channels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.at, Iterable) or (isinstance(self.at, Tensor | np.ndarray) and self.at.ndim == 0):
            raise ValueError(f"give a list with the coordinates of each sensor, at=[...], got {self.at!r}")
        each = [p.tolist() if isinstance(p, Tensor | np.ndarray) else p for p in self.at]
        object.__setattr__(self, "at", tuple(tuple(p) if isinstance(p, Sequence) else float(p) for p in each))
        if not self.at:
            raise ValueError("there are no sensors: give coordinates, at=[...]")
        check_sd(self.sd)


def observed(source: FieldSource, sensors: Sensors, *, beside: Sequence[str] = ()) -> ObservedFields:
    """Make a simulator of sensor measurements "y" of fields.

    y has the shape (frames, sensors of each channel): (5, 3) for three sensors in five frames of one channel, or (3,)
    if one frame is measured. If solutions are determined by theta, there is a likelihood, and draws can be weighted by
    it. There is no likelihood if solutions are random, as with random initial fields or an emulator with its error.
    There is none either if `beside` names an initial field.

    Args:
        source: An equation, or a surrogate of one (`emulators.Emulator`).
        sensors: Positions, noise, frames and channels of the measurements.
        beside: Names of initial fields that are known too. They are additional observables, without noise.

    Raises:
        TypeError: If `source` has no fields.
        ValueError: If a sensor lies outside the grid, or a frame, channel or name does not exist.
    """
    return ObservedFields(fields_in_space(source), sensors, tuple(beside))


@final
class ObservedFields(Simulator):
    """The simulator of measurements at fixed sensors that `observed` makes."""

    def __init__(self, source: FieldSource, sensors: Sensors, beside: tuple[str, ...]) -> None:
        spec = source.observables[SOLUTION]
        self.source_of_fields, self.sensors, self.beside = source, sensors, beside
        self.points = GridInterpolation(source.grid, tuple(sensors.at))  # pyright: ignore[reportArgumentType]
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
        self.emulated_by = source.emulated_by
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
        """Settings of the source of fields, and "sensors", a description of the measurement: name -> text."""
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
    """Name made of a prefix and a hash of the other arguments, so that different arguments give different names."""
    return f"{prefix}_{sha256_of(repr(said))[:8]}"


def check_sd(sd: float) -> None:
    """Raise an error if the sd of a measurement's noise is invalid.

    Raises:
        ValueError: If the sd is not a positive, finite number.
    """
    if not isinstance(sd, Real) or not 0 < sd < math.inf:
        raise ValueError(f"the sd of a measurement's noise is one number, positive and finite, got {sd!r}")


def fields_in_space(source: FieldSource) -> FieldSource:
    """Return the source unchanged if its fields have space, and raise an error otherwise.

    Raises:
        TypeError: If the source has no fields, or its fields have no space.
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
    """Solutions that are determined by theta, one block of rows after another.

    Raises:
        ValueError: If the source draws random numbers although it has `random = False`.
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
    """Numbers of the chosen frames or channels.

    Args:
        what: "frames" or "channels", for the error message.
        index: The chosen numbers; None for all.
        count: Number of frames or channels of the solution.

    Raises:
        ValueError: If a number is not one of 0 to `count` - 1, or none is chosen.
    """
    found = tuple(range(count)) if index is None else tuple(index) if isinstance(index, Iterable) else (index,)
    whole = all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in found)
    if not found or not whole or any(not 0 <= k < count for k in found):
        raise ValueError(f"{what} {list(found)}: the solution has {count}, called by numbers from 0 to {count - 1}")
    return tuple(int(k) for k in found)
