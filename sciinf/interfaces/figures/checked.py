"""Observables as figures need them: observation, posterior predictions and strange values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from sciinf.core.coordinates import coordinate_words
from sciinf.core.observable import Observable
from sciinf.core.records import Strange
from sciinf.interfaces.predictive_file import Predicted
from sciinf.networks.summaries.timed import TIMES, times_of


@dataclass(frozen=True)
class Along:
    """Coordinates along one axis of an observable: numbers with a unit, or texts."""

    values: tuple[float, ...] | tuple[str, ...]
    unit: str = ""

    @property
    def places(self) -> Float[np.ndarray, " n"] | None:
        """Coordinates as numbers; None if the coordinates are texts."""
        return None if isinstance(self.values[0], str) else np.asarray(self.values, dtype=float)

    def words(self, index: int) -> str:
        """Text of the coordinate at an index, with its unit, such as "hare" or "0.5 m"."""
        return coordinate_words(self.values, self.unit, index)


@dataclass(frozen=True)
class Checked:
    """Observation and predictive data of one observable, with masked entries as NaN.

    Args:
        name: Name of the observable.
        unit: Unit of the values; "" if dimensionless.
        dims: Name of each axis; empty if the simulator names none.
        scale: Scale of the values, "linear" or "log".
        observed: Observed values, (*event).
        predictive: Data simulated from the posterior, (m, *event).
        strange: Mask of the values that are unlike what the other values say of them, (*event); None if there are none.
        coords: Name of an axis -> coordinates along this axis, where they are known.
    """

    name: str
    unit: str
    dims: tuple[str, ...]
    scale: str
    observed: Float[np.ndarray, "*event"]
    predictive: Float[np.ndarray, "m ..."]
    strange: Bool[np.ndarray, "*event"] | None = None
    coords: Mapping[str, Along] = field(default_factory=dict)

    @property
    def axis(self) -> int | None:
        """Index of the axis along which the observable is a series; None if there is no such axis.

        The axis is that of time, or else the first axis whose coordinates are numbers. Axes of length one do not count.
        """
        long = [d for d, size in zip(self.dims, self.observed.shape, strict=False) if size > 1]
        numbers = (d for d in long if d in self.coords and self.coords[d].places is not None)
        found = "time" if "time" in long else next(numbers, None)
        return None if found is None else self.dims.index(found)


def checked_of(predicted: Predicted) -> tuple[Checked, ...]:
    """Observables with predicted data, without masks, times and controls; missing values are NaN.

    If an observable was predicted at its own times, these times are its coordinates.
    """
    out, times = [], times_of(predicted.observables)
    for name, observed in predicted.observation.items():
        simulated = predicted.predictive.get(name)
        is_mask = name.endswith("_mask") and name.removesuffix("_mask") in predicted.observation
        if simulated is None or len(simulated) == 0 or is_mask or name in times or predicted.observables[name].control:
            continue
        observed, simulated = np.asarray(observed, dtype=float), np.asarray(simulated, dtype=float)
        mask = f"{name}_mask"
        if mask in predicted.observation:
            observed = _masked(observed, predicted.observation[mask])
            simulated = _masked(simulated, predicted.predictive[mask])
        spec = predicted.observables[name]
        along = _along(spec) | _timed(predicted, name)
        out.append(Checked(name, spec.unit, spec.dims, spec.scale, observed, simulated, coords=along))
    return tuple(out)


def _along(spec: Observable) -> dict[str, Along]:
    return {axis: Along(tuple(values), spec.coord_units.get(axis, "")) for axis, values in spec.coords.items()}


def _timed(predicted: Predicted, name: str) -> dict[str, Along]:
    """Times of an observable as coordinates of its first axis; empty unless the predictions have the same times."""
    times, spec = f"{name}{TIMES}", predicted.observables[name]
    if times not in times_of(predicted.observables) or not spec.dims or times not in predicted.predictive:
        return {}
    own = np.asarray(predicted.observation[times], dtype=float)
    if not (np.asarray(predicted.predictive[times], dtype=float) == own).all():
        return {}
    return {spec.dims[0]: Along(tuple(own.tolist()), predicted.observables[times].unit)}


def with_strange(checked: Checked, where: Sequence[Strange]) -> Checked:
    """Observable with its strange values marked."""
    found = [one for one in where if one.observable == checked.name]
    if not found:
        return checked
    strange = np.zeros(checked.observed.shape, dtype=bool)
    for one in found:
        strange[one.where] = True
    return replace(checked, strange=strange)


def _masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values with NaN where the mask is false.

    The mask has the shape of the values, or the shape of their leading axes.
    """
    present = mask.astype(bool).reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
    return np.where(present, values, np.nan)
