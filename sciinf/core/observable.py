"""What a simulator gives: named observables with shape, unit and axes, and what became of each simulation."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sciinf.core.called import hinted
from sciinf.core.checks import check_unit
from sciinf.core.coordinates import checked_coords, coordinate_words

X = Mapping[str, Tensor]
"""Named data: observable name -> tensor (batch, *event)."""


class Status(enum.IntEnum):
    """What became of one simulation. Failures are rows too: kept, counted, left out of training and calibration."""

    OK = 0
    NON_FINITE = 1
    RAISED = 2
    TIMED_OUT = 3


@dataclass(frozen=True)
class Observable:
    """What one named output of a simulator looks like.

    Args:
        shape: Event shape of one simulation; () for a number.
        unit: Any unit astropy reads; "" for dimensionless.
        dims: One name per axis, from which summary networks choose: "time" marks a series, "item" an exchangeable
            set, two of "y", "x", "row", "column" an image, anything else ("channel", "species", ...) features.
        dtype: "float32", "float64", "int64" or "bool".
        scale: "log" for values that span decades and are not negative (summarised and drawn in logs; zero counts as
            half the smallest positive value seen), else "linear".
        coords: Name of an axis -> what stands along it, one number, text or date for each index: {"species": ["hare",
            "lynx"]}. Figures, words and exports show them in place of indices, and a file's column that is named
            like the axis must agree. Nothing is computed from them; observables that differ in them alone are equal.
        coord_units: Name of an axis -> unit of its numbers: {"time": "yr"}.
        control: Whether it was set, and not seen: a dose, a temperature. Networks see it beside what was seen at the
            same times; nothing is predicted of it.

    Raises:
        TypeError: If coordinates are neither all numbers nor all text.
        ValueError: If dims do not match the shape, coordinates do not match dims and shape or are not finite, or a
            unit, the dtype or the scale is unknown.

    Examples:
        >>> years = {"time": [1900, 1901, 1902], "species": ["hare", "lynx"]}
        >>> Observable((3, 2), dims=("time", "species"), coords=years, coord_units={"time": "yr"}).at("time", 1)
        '1901 yr'
    """

    shape: tuple[int, ...] = ()
    unit: str = ""
    dims: tuple[str, ...] = ()
    dtype: str = "float32"
    scale: Literal["linear", "log"] = "linear"
    coords: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    coord_units: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    control: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.shape, int):
            raise TypeError(f"an observable's shape is a tuple, such as ({self.shape},) for {self.shape} numbers")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "unit", str(self.unit))
        if self.dims and len(self.dims) != len(self.shape):
            raise ValueError(f"dims {self.dims} do not match the shape {self.shape}: give one name per axis")
        if self.dtype not in ("float32", "float64", "int64", "bool"):
            raise ValueError(f"an observable's dtype is float32, float64, int64 or bool, got {self.dtype!r}")
        if self.scale not in ("linear", "log"):
            raise ValueError(f"an observable's scale is 'linear' or 'log', got {self.scale!r}")
        check_unit(self.unit, "an observable")
        coords, units = checked_coords(self.shape, self.dims, self.coords, self.coord_units)
        object.__setattr__(self, "coords", coords)
        object.__setattr__(self, "coord_units", units)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def in_sets(self, items: int) -> Observable:
        """A set of that many, along a first axis."""
        dims = ("item", *self.dims) if self.dims or not self.shape else ()
        about = {"coords": self.coords, "coord_units": self.coord_units}
        return Observable((items, *self.shape), self.unit, dims, self.dtype, self.scale, control=self.control, **about)

    def at(self, axis: str, index: int) -> str:
        """What stands at an index of an axis, with its unit; "" where the axis has no coordinates."""
        return coordinate_words(self.coords.get(axis, ()), self.coord_units.get(axis, ""), index)

    def to_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {"coords": {axis: list(c) for axis, c in self.coords.items()}} if self.coords else {}
        about |= {"coord_units": dict(self.coord_units)} if self.coord_units else {}
        about |= {"control": True} if self.control else {}  # and nothing else: what is on disk stays as it is
        return about | {
            "shape": list(self.shape),
            "unit": self.unit,
            "dims": list(self.dims),
            "dtype": self.dtype,
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observable:
        about = {key: data[key] for key in ("coords", "coord_units", "control") if key in data}
        return cls(tuple(data["shape"]), data["unit"], tuple(data["dims"]), data["dtype"], data["scale"], **about)


Observable.__init__ = hinted("Observable")(Observable.__init__)


@dataclass(frozen=True)
class Outcome:
    """A batch of simulations with what became of each.

    Args:
        x: Observable name -> tensor (batch, *event); rows that failed hold anything.
        status: `Status` per row, uint8 (batch,); None when the simulator itself knows of no failure.
        messages: Row -> why it failed, for rows that did.
    """

    x: X
    status: Tensor | None = None
    messages: Mapping[int, str] = field(default_factory=dict)


def event_of(observables: Mapping[str, Observable]) -> str:
    """The observables in words, for error messages."""
    return ", ".join(f"{n!r} {o.shape}" + (f" [{o.unit}]" if o.unit else "") for n, o in observables.items())
