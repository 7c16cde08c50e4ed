"""The output of a simulator: named observables with shape, unit and axes, and a status per simulation."""

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
    """The status of one simulation.

    Failed simulations are rows, too. They are stored and counted, but left out of training and calibration.
    """

    OK = 0
    NON_FINITE = 1
    RAISED = 2
    TIMED_OUT = 3


@dataclass(frozen=True)
class Observable:
    """The description of one named output of a simulator.

    Args:
        shape: Event shape of one simulation; () for a number.
        unit: Any unit that astropy reads; "" for dimensionless.
        dims: One name per axis. They decide which summary networks fit: "time" marks a series, "item" an
            exchangeable set, two of "y", "x", "row" and "column" an image. Any other name ("channel",
            "species", ...) marks features.
        dtype: "float32", "float64", "int64" or "bool".
        scale: "log" for non-negative values that span decades, else "linear". With "log", networks and
            figures use the logarithm, and zero counts as half the smallest positive value in the data.
        coords: Name of an axis -> its coordinates, one number, text or date for each index: {"species":
            ["hare", "lynx"]}. Figures, texts and exports show coordinates instead of indices. A column of a
            file that is named like the axis must agree with them. Nothing is computed from coordinates, and
            observables that differ in coordinates only are equal.
        coord_units: Name of an axis -> unit of its coordinates: {"time": "yr"}.
        control: Whether the values were set rather than observed, such as a dose or a temperature. Networks
            are given a control together with the values observed at the same times. No control is predicted.

    Raises:
        TypeError: If the shape is a number, or if coordinates are neither all numbers nor all text.
        ValueError: If dims do not match the shape, if coordinates do not match dims and shape or are not
            finite, or if a unit, the dtype or the scale is unknown.

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
            raise ValueError(f"dims {self.dims} do not match the shape {self.shape}; give one name per axis")
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
        """The description of a set of such observables, with a new first axis of length `items`."""
        dims = ("item", *self.dims) if self.dims or not self.shape else ()
        about = {"coords": self.coords, "coord_units": self.coord_units}
        return Observable((items, *self.shape), self.unit, dims, self.dtype, self.scale, control=self.control, **about)

    def at(self, axis: str, index: int) -> str:
        """The coordinate at an index of an axis, with its unit, as text; "" without coordinates."""
        return coordinate_words(self.coords.get(axis, ()), self.coord_units.get(axis, ""), index)

    def to_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {"coords": {axis: list(c) for axis, c in self.coords.items()}} if self.coords else {}
        about |= {"coord_units": dict(self.coord_units)} if self.coord_units else {}
        # False is not written, so that the JSON of all other observables is the same as in earlier versions.
        about |= {"control": True} if self.control else {}
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
    """A batch of simulations with the status of each.

    Args:
        x: Observable name -> tensor (batch, *event). Failed rows may hold any values.
        status: `Status` of each row, uint8 (batch,); None if the simulator reports no failures itself.
        messages: Row -> reason of its failure, for failed rows.
    """

    x: X
    status: Tensor | None = None
    messages: Mapping[int, str] = field(default_factory=dict)


def event_of(observables: Mapping[str, Observable]) -> str:
    """The observables in words, for error messages."""
    return ", ".join(f"{n!r} {o.shape}" + (f" [{o.unit}]" if o.unit else "") for n, o in observables.items())
