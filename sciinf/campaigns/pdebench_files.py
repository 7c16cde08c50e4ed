"""A store made of PDEBench simulations, which are read from HDF5 files.

There are four kinds of files:

    tensor (B, T, *space), x-coordinate, ...                 advection, Burgers, diffusion-reaction in 1-D; Darcy flow,
                                                             with one frame and its coefficient nu (B, *space)
    density, pressure, Vx, Vy, Vz, each (B, T, *space)       compressible Navier-Stokes, Vy and Vz as directions go
    0000/data (T, *space, channels), 0001/data, ...          diffusion-sorption, diffusion-reaction in 2-D, shallow
                                                             water; with coordinates 0000/grid/t, x, y
    velocity (B, T, *space, D), particles (B, T, *space, 1)  incompressible Navier-Stokes, with its force (B, *space, D)
                                                             and times t (B, T)

A parameter of a file is read from one of three places. It may be an attribute of the file ("Nu", "beta", "eta", ...).
It may be a number in the configuration, the attribute `config` of a sample's group or of the file. Or it stands in the
file's name (1D_Burgers_Sols_Nu0.01.hdf5), in capital or small letters. t-coordinate may be longer than the number of
frames; its first values then belong to the frames.

References:
    | PDEBench: An Extensive Benchmark for Scientific Machine Learning (Takamoto et al., 2022),
      https://arxiv.org/abs/2210.07182
    | Data, https://doi.org/10.18419/darus-2986
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.campaigns.store import Store
from sciinf.campaigns.stored_fields import StoredField, Trajectories, columns_of, files_of, frames_of, numbers, store_of
from sciinf.campaigns.table_columns import opened_h5
from sciinf.core import Prior
from sciinf.core.files import local_path

_AXES = ("x", "y", "z")
_FLUID = ("density", "pressure", "Vx", "Vy", "Vz")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def pdebench(
    *paths: str | Path,
    prior: Prior,
    out: str | Path,
    parameters: Mapping[str, Sequence[float]] | None = None,
    frames: slice | None = None,
    rows: int | None = None,
    name: str = "pdebench",
) -> Store:
    """Make a store of PDEBench simulations. The same files give the same store, and a complete store is kept.

    Args:
        *paths: HDF5 files, or folders of HDF5 files.
        prior: Distribution of the parameters, each named like a parameter of the files; `Unknown()` if the distribution
            is unknown, `Prior.none()` for fields without parameters.
        out: Folder of the store.
        parameters: Parameter -> its value in each file, for parameters that the files do not state.
        frames: Frames to take; all by default.
        rows: Number of trajectories to take, evenly from the files; all by default.
        name: Name of the simulator in the store.

    Returns:
        The store. Its observables are "u" (time, channel, *space), and "initial", the first frame, if there are several
            frames. "nu" (the coefficient) or "force", both (channel, *space), is present if the files have it. Rows
            with non-finite data have `Status.NON_FINITE`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If something is missing or has another shape, files do not agree, theta lies outside the prior's
            support, or `out` holds a store of something else.

    Warns:
        UserWarning: If a parameter's values do not look drawn from the prior.
    """
    files = files_of(paths, "pdebench('1D_Burgers_Sols_Nu0.01.hdf5', prior=..., out=...)")
    for key, values in (parameters or {}).items():
        if len(values) != len(files) or key not in prior.names:
            raise ValueError(
                f"parameters={{{key!r}: ...}} has {len(values)} values, expected one for each of {len(files)} files, "
                f"and a parameter of the prior, which has {list(prior.names)}"
            )
    with ExitStack() as stack:
        opened = []
        for k, path in enumerate(files):
            told = {key: float(values[k]) for key, values in (parameters or {}).items()}
            opened.append(_open(opened_h5(path, stack), path, prior, told, frames or slice(None)))
        return store_of(files, opened, prior=prior, out=local_path(out), rows=rows, name=name)


@dataclass(frozen=True)
class _Content:
    """Fields of a file with their numbers of rows, frames and points, their coordinates, times and sample groups."""

    fields: Mapping[str, StoredField]
    rows: int
    steps: int
    space: tuple[int, ...]
    coordinates: Mapping[str, Any]
    times: Any
    samples: tuple[str, ...] = ()


def _open(file: Any, path: Path, prior: Prior, told: Mapping[str, float], frames: slice) -> Trajectories:
    content = _content(file, path.name)
    space: dict[str, int] = dict(zip(_AXES, content.space, strict=False))
    kept = frames_of(content.steps, frames, path.name)
    columns, dims = columns_of(content.fields, content.rows, space, kept, path.name)
    theta = np.empty((content.rows, len(prior)))
    for k, name in enumerate(prior.names):
        theta[:, k] = told[name] if name in told else _parameter(file, path, content, name)
    known = content.steps > 1 and content.times is not None and len(content.times) >= content.steps
    facts = {
        "channels": [channel for field in content.fields.values() if field.timed for channel in field.channels],
        "constant": {key: list(field.channels) for key, field in content.fields.items() if not field.timed},
        "times": numbers(np.asarray(content.times)[kept]) if known else None,
        "coordinates": {axis: numbers(values) for axis, values in content.coordinates.items()},
    }
    return Trajectories(path.name, theta, columns, dims, facts)


def _content(file: Any, label: str) -> _Content:
    import h5py

    samples = [key for key, item in file.items() if isinstance(item, h5py.Group) and "data" in item]
    if samples:
        return _by_samples(file, label, sorted(samples, key=lambda key: (len(key), key)))
    if "tensor" in file:
        return _side_by_side(file, label, ["tensor"], ["nu"] if "nu" in file else [])
    if "density" in file:
        return _side_by_side(file, label, _FLUID[: max(3, file["density"].ndim)], [])
    if "velocity" in file:
        return _incompressible(file, label)
    raise ValueError(
        f"{label} is no file of PDEBench: it needs 'tensor', 'density' with 'pressure' and 'Vx', 'velocity', or groups "
        f"with 'data'; found {sorted(file)}"
    )


def _side_by_side(file: Any, label: str, timed: Sequence[str], fixed: Sequence[str]) -> _Content:
    """Content of a file of arrays with one channel each: (B, T, *space), and (B, *space) if constant in time."""
    rows, steps, *space = _shape(file, timed[0], label)
    coordinates = {axis: file[f"{axis}-coordinate"][...] for axis in _AXES if f"{axis}-coordinate" in file}
    sizes = [len(values) for values in coordinates.values()]
    if not space or len(space) > 3 or (coordinates and sizes != space):
        raise ValueError(
            f"{timed[0]!r} of {label} has shape {file[timed[0]].shape}, expected (rows, frames, "
            f"{', '.join(map(str, sizes)) or 'points'}) by its coordinates {list(coordinates)}"
        )
    fields = {}
    for key in (*timed, *fixed):
        _expect(file, key, label, (rows, steps, *space) if key in timed else (rows, *space))
        fields[key] = _stored(file[key], (key,), timed=key in timed, channels=False)
    times = file["t-coordinate"][...] if "t-coordinate" in file else None
    return _Content(fields, rows, steps, tuple(space), coordinates, times)


def _incompressible(file: Any, label: str) -> _Content:
    rows, steps, *space, dim = _shape(file, "velocity", label)
    if dim != len(space):
        raise ValueError(
            f"'velocity' of {label} has shape {file['velocity'].shape}, expected (rows, frames, *space, dim)"
        )
    fields = {}
    for key, count in (("velocity", dim), ("particles", 1), ("force", dim)):
        timed = key != "force"
        _expect(file, key, label, (rows, *([steps] if timed else []), *space, count))
        names = tuple(f"{key}_{axis}" for axis in _AXES[:dim]) if count > 1 else (key,)
        fields[key] = _stored(file[key], names, timed=timed, channels=True)
    times = np.asarray(file["t"][...]) if "t" in file else None
    same = times is not None and times.ndim == 2 and bool(np.allclose(times, times[:1]))
    return _Content(fields, rows, steps, tuple(space), {}, times[0] if times is not None and same else None)


def _by_samples(file: Any, label: str, samples: Sequence[str]) -> _Content:
    """Content of a file with one group for each row, which holds data (T, *space, channels)."""
    arrays = [file[key]["data"] for key in samples]
    shape = tuple(arrays[0].shape)
    if not 3 <= len(shape) <= 5:
        raise ValueError(f"'{samples[0]}/data' of {label} has shape {shape}, expected (frames, *space, channels)")
    for key, array in zip(samples, arrays, strict=True):
        if array.shape != shape:
            raise ValueError(f"'{key}/data' of {label} has shape {array.shape}, '{samples[0]}/data' has {shape}")
    grid: Any = file[samples[0]].get("grid", {})
    coordinates = {axis: grid[axis][...] for axis in _AXES[: len(shape) - 2] if axis in grid}
    for (axis, values), size in zip(coordinates.items(), shape[1:-1], strict=False):
        if len(values) != size:
            raise ValueError(
                f"'{samples[0]}/grid/{axis}' of {label} has {len(values)} points, 'data' has shape {shape}"
            )

    def read(rows: slice, frames: slice) -> np.ndarray:
        return np.stack([array[frames] for array in arrays[rows]])

    names = ("data",) if shape[-1] == 1 else tuple(f"data_{k}" for k in range(shape[-1]))
    times = grid["t"][...] if "t" in grid else None
    fields = {"data": StoredField(names, True, read)}
    return _Content(fields, len(samples), shape[0], shape[1:-1], coordinates, times, tuple(samples))


def _stored(array: Any, names: tuple[str, ...], *, timed: bool, channels: bool) -> StoredField:
    def read(rows: slice, frames: slice) -> np.ndarray:
        values = array[rows, frames] if timed else array[rows]
        return values if channels else values[..., None]

    return StoredField(names, timed, read)


def _shape(file: Any, key: str, label: str) -> tuple[int, ...]:
    if file[key].ndim < 3:
        raise ValueError(f"{key!r} of {label} has shape {file[key].shape}, expected (rows, frames, *space)")
    return tuple(file[key].shape)


def _expect(file: Any, key: str, label: str, shape: tuple[int, ...]) -> None:
    if key not in file:
        raise ValueError(f"{label} has no {key!r}; found {sorted(file)}")
    if file[key].shape != shape:
        raise ValueError(f"{key!r} of {label} has shape {file[key].shape}, expected {shape}")


def _parameter(file: Any, path: Path, content: _Content, name: str) -> np.ndarray | float:
    """Value of a parameter: one number for every row, or one for all rows.

    The value is read from the samples, the file's attributes, its configuration or its name.
    """
    if content.samples:
        texts = [file[key].attrs.get("config", file.attrs.get(f"{key}/config", "")) for key in content.samples]
        values = [_configured(text, name, path.name) for text in texts]
        if None not in values:
            return np.array(values, dtype=np.float64)
    same = [key for key in file.attrs if key == name] or [key for key in file.attrs if key.lower() == name.lower()]
    if same and np.size(file.attrs[same[0]]) == 1:
        return float(np.asarray(file.attrs[same[0]]).ravel()[0])
    found = _configured(file.attrs.get("config", ""), name, path.name)
    if found is not None:
        return found
    for word in path.stem.split("_"):
        if match := re.fullmatch(f"{re.escape(name)}({_NUMBER})", word, re.IGNORECASE):
            return float(match.group(1))
    raise ValueError(
        f"{path.name} does not say its {name!r}: it is not in the file's attributes {sorted(file.attrs)}, in a "
        f"configuration or in the file's name. Say it with parameters={{{name!r}: [...]}}, a number for each file"
    )


def _configured(text: Any, name: str, label: str) -> float | None:
    """The number in a line `name: 1.0` of a configuration text; None if there is no such line.

    Raises:
        ValueError: If the text gives several different numbers.
    """
    text = text.decode() if isinstance(text, bytes) else str(text)
    found = re.findall(rf"^[ \t]*{re.escape(name)}:[ \t]*({_NUMBER})[ \t]*$", text, re.IGNORECASE | re.MULTILINE)
    if len({float(value) for value in found}) > 1:
        raise ValueError(f"the configuration in {label} gives {name!r} several values: {', '.join(found)}")
    return float(found[0]) if found else None
