"""`predictive.h5`: an observation, the data predicted from its posterior, from which draws, and their axes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sciinf.core.files import write_bytes
from sciinf.core.observable import Observable
from sciinf.core.within import names_in, own_dataset


class Predicted(NamedTuple):
    """What the file holds.

    Args:
        observation: Observable name -> array (*event).
        predictive: Observable name -> array (m, *event); empty where nothing was predicted.
        observables: Observable name -> what it is.
        theta: The draws that the rows of the predictive data were simulated from, (m, D); (0, 0) where not known.
    """

    observation: Mapping[str, np.ndarray]
    predictive: Mapping[str, np.ndarray]
    observables: Mapping[str, Observable]
    theta: np.ndarray = np.zeros((0, 0))


def write_predictive(path: Path, predicted: Predicted) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        for group, values in (("observation", predicted.observation), ("predictive", predicted.predictive)):
            for name, value in values.items():
                item = file.create_dataset(f"{group}/{name}", data=np.asarray(value))
                spec = predicted.observables[name]
                item.attrs.update(unit=spec.unit, dims=",".join(spec.dims), scale=spec.scale)
                if spec.control:  # and nothing else: what is on disk stays as it is
                    item.attrs["control"] = True
        for name in predicted.observation:
            _write_coords(file, name, predicted.observables[name])
        file.create_dataset("predicted_from/theta", data=np.asarray(predicted.theta))
    write_bytes(path, image.getvalue())


def read_predictive(path: Path) -> Predicted:
    """Read the file; one without an observation is read as empty.

    Raises:
        OSError: If it cannot be read, or what it holds lies in other files.
        ValueError: If what it says of an observable makes no sense.
    """
    import h5py

    with h5py.File(path, "r") as opened:
        file: Any = opened
        values = {
            group: {name: np.asarray(own_dataset(file, f"{group}/{name}")[()]) for name in names_in(file, group)}
            for group in ("observation", "predictive")
        }
        observables = {n: _observable(file, n, value) for n, value in values["observation"].items()}
        known = names_in(file, "predicted_from")
        theta = np.asarray(own_dataset(file, "predicted_from/theta")[()]) if known else np.zeros((0, 0))
    return Predicted(values["observation"], values["predictive"], observables, theta)


def _write_coords(file: Any, name: str, spec: Observable) -> None:
    """What stands along the axes of an observable, each under the number of its axis."""
    import h5py

    for axis, values in spec.coords.items():
        kind = h5py.string_dtype() if isinstance(values[0], str) else np.float64
        item = file.create_dataset(f"coords/{name}/{spec.dims.index(axis)}", data=np.array(values, dtype=kind))
        item.attrs["unit"] = spec.coord_units.get(axis, "")


def _observable(file: Any, name: str, value: np.ndarray) -> Observable:
    """What an observable is, from the attributes and coordinates that stand beside its values."""
    attrs = own_dataset(file, f"observation/{name}").attrs
    unit, dims, scale = (str(attrs.get(key, "")) for key in ("unit", "dims", "scale"))
    axes = tuple(d for d in dims.split(",") if d)
    coords: dict[str, Any] = {}
    units: dict[str, str] = {}
    for place in names_in(file, f"coords/{name}"):
        item = own_dataset(file, f"coords/{name}/{place}")
        if int(place) >= len(axes):
            raise ValueError(f"{name!r} has coordinates along axis {place} of {len(axes)}")
        axis = axes[int(place)]
        coords[axis] = (item.asstr()[()] if item.dtype.kind == "O" else item[()]).tolist()
        units |= {axis: str(item.attrs["unit"])} if item.attrs.get("unit") else {}
    log = "log" if scale == "log" else "linear"
    control = bool(attrs.get("control", False))
    return Observable(value.shape, unit, axes, value.dtype.name, log, coords, units, control)
