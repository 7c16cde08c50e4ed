"""`paths.h5`: the hidden paths of an answer.

`/values` (m, T, S) float32, with attributes `names`, `units`, `level`; `/times` (T,) float64, with attribute `unit`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from sciinf.core.files import write_bytes
from sciinf.core.paths import HiddenPaths
from sciinf.core.within import own_dataset


def write_paths(path: Path, paths: HiddenPaths) -> None:
    """Write hidden paths into `paths.h5`; the file is written as a whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        values = file.create_dataset("values", data=np.asarray(paths.values, dtype=np.float32))
        text = h5py.string_dtype()
        values.attrs["names"] = np.array(paths.names, dtype=text)
        values.attrs["units"] = np.array(paths.units, dtype=text)
        values.attrs["level"] = paths.level
        times = file.create_dataset("times", data=np.asarray(paths.times, dtype=np.float64))
        times.attrs["unit"] = paths.time_unit
    write_bytes(path, image.getvalue())


def read_paths(path: Path) -> HiddenPaths:
    """Read hidden paths from `paths.h5`.

    Raises:
        OSError: If the file cannot be read, or if its data lie in other files.
        ValueError: If the shape of the values does not match the times, names and units.
    """
    import h5py

    with h5py.File(path, "r") as opened:
        held, when = own_dataset(opened, "values"), own_dataset(opened, "times")
        values, times = np.asarray(held[()]), np.asarray(when[()])
        names, units = (tuple(str(one) for one in held.attrs[key]) for key in ("names", "units"))
        level, unit = float(held.attrs["level"]), str(when.attrs["unit"])
    if values.ndim != 3 or values.shape[1:] != (len(times), len(names)) or len(units) != len(names):
        raise ValueError(f"{path} has values of shape {values.shape} for {len(times)} times of {', '.join(names)}")
    return HiddenPaths(names, values, times, units, unit, level)
