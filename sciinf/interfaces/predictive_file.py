"""`predictive.h5`: an observation, data simulated from draws of its posterior, the draws, and the observables' axes."""

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
    """Content of `predictive.h5`.

    Args:
        observation: The observation: observable name -> array (*event).
        predictive: Data simulated from the posterior: observable name -> array (m, *event); empty if there are none.
        observables: Observable name -> its description: shape, unit, axes and coordinates.
        theta: Draws that the rows of `predictive` were simulated from, (m, D); (0, 0) if they are not known.
    """

    observation: Mapping[str, np.ndarray]
    predictive: Mapping[str, np.ndarray]
    observables: Mapping[str, Observable]
    theta: np.ndarray = np.zeros((0, 0))


def write_predictive(path: Path, predicted: Predicted) -> None:
    """Write `predictive.h5`; the file is written as a whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        for group, values in (("observation", predicted.observation), ("predictive", predicted.predictive)):
            for name, value in values.items():
                item = file.create_dataset(f"{group}/{name}", data=np.asarray(value))
                spec = predicted.observables[name]
                item.attrs.update(unit=spec.unit, dims=",".join(spec.dims), scale=spec.scale)
                # Only a control gets this attribute, so that files without controls stay the same as in earlier
                # versions.
                if spec.control:
                    item.attrs["control"] = True
        for name in predicted.observation:
            _write_coords(file, name, predicted.observables[name])
        file.create_dataset("predicted_from/theta", data=np.asarray(predicted.theta))
    write_bytes(path, image.getvalue())


def read_predictive(path: Path) -> Predicted:
    """Read `predictive.h5`; a file without an observation gives empty mappings.

    Raises:
        OSError: If the file cannot be read, or if its data lie in other files.
        ValueError: If the description of an observable is inconsistent.
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
    """Write the coordinates along the axes of an observable, each under the number of its axis."""
    import h5py

    for axis, values in spec.coords.items():
        kind = h5py.string_dtype() if isinstance(values[0], str) else np.float64
        item = file.create_dataset(f"coords/{name}/{spec.dims.index(axis)}", data=np.array(values, dtype=kind))
        item.attrs["unit"] = spec.coord_units.get(axis, "")


def _observable(file: Any, name: str, value: np.ndarray) -> Observable:
    """Build the description of an observable from the attributes and coordinates stored with its values."""
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
